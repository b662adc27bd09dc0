"""The metrics of lwexplain's own probes, declared in one file for each family, which their probes import.

The files load no torch: what stores no declarations, such as an analysis of an earlier version, is still shown with
titles and directions by pages that load none either. A further probe may as well list its metrics in its own file, as
third-party probes do; every analysis stores what its probes declare.
"""
