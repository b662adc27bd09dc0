"""What an analysis leaves under ``analysis/`` of a run directory: one writer and one reader, no torch.

==========================================  ================================================================
``analysis/analysis.json``                  when, which probes and how long each took; written last: its
                                            presence says that the analysis is whole; it also
                                            names the key, the sizes of the files and the probes
                                            whose results last
``analysis/metrics.parquet``                the long table, a row for each measurement (``METRIC_COLUMNS``)
``analysis/predictions.parquet``            a row for each sample, stage and source (``PREDICTION_COLUMNS``)
``analysis/embeddings/METHOD.parquet``      a row for each sample and stage (``EMBEDDING_COLUMNS``)
``analysis/thumbnails.npy``                 uint8 (N, H, W, C), row i = sample i of the val split
``analysis/attributions/METHOD.npy``        float32 (S, M, H, W): stages x sample images, signed heat maps
``analysis/attributions/images.npy``        uint8 (M, H, W, C), the sample images
``analysis/attributions/index.json``        classes, labels, stages, targets, validity and notes
==========================================  ================================================================

The columns of the long table and what is known of it as a whole (kept inside the parquet file) are described in
``lwexplain.table``.
"""

from lwexplain.results.analysis import EMBEDDING_COLUMNS as EMBEDDING_COLUMNS
from lwexplain.results.analysis import METRIC_COLUMNS as METRIC_COLUMNS
from lwexplain.results.analysis import PREDICTION_COLUMNS as PREDICTION_COLUMNS
from lwexplain.results.analysis import Analysis as Analysis
from lwexplain.results.analysis import AnalysisKey as AnalysisKey
from lwexplain.results.analysis import AttributionSet as AttributionSet
from lwexplain.results.analysis import correctness_patterns as correctness_patterns
from lwexplain.results.analysis import metrics_frame as metrics_frame
from lwexplain.results.checks import SPLITS as SPLITS
from lwexplain.results.reading import checked_table as checked_table
from lwexplain.results.reading import embedding_file as embedding_file
from lwexplain.results.reading import is_analyzed as is_analyzed
from lwexplain.results.reading import list_embeddings as list_embeddings
from lwexplain.results.reading import read_analysis as read_analysis
from lwexplain.results.reading import read_attributions as read_attributions
from lwexplain.results.reading import read_embedding as read_embedding
from lwexplain.results.reading import read_metrics as read_metrics
from lwexplain.results.reading import read_odd_metrics as read_odd_metrics
from lwexplain.results.reading import read_predictions as read_predictions
from lwexplain.results.reading import read_thumbnails as read_thumbnails
from lwexplain.results.writing import write_analysis as write_analysis
