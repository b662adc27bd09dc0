"""Threads are left to the processes of probes while these are at work."""

import torch

from lwexplain.analysis.cores import shared_cores


class Working:
    busy = True

    def is_busy(self):
        return self.busy


def test_a_thread_is_left_to_each_process_that_is_busy(monkeypatch):
    threads = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    first, second = Working(), Working()
    with shared_cores([first, object(), second]) as cores:
        cores.share()
        assert threads[-1] == 2
        first.busy = False
        cores.share()
        assert threads[-1] == 3
    assert threads[-1] == 4


def test_one_thread_is_always_left(monkeypatch):
    threads = [1]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    with shared_cores([Working()]) as cores:
        cores.share()
        assert threads[-1] == 1
