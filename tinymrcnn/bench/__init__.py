"""The benchmarks: how fast this package is, next to torch and torchvision where they are installed.

measure.py   the clock: both sides turn by turn in one process, on the same threads; the machine's ceilings
cases.py     the operators: RoI features, suppression, convolution, pasting
coco.py      COCO's metrics, ours and pycocotools'
networks.py  whole networks, and torchvision's with the same layers and weights
memory.py    peak memory, in a fresh process for every side
watch.py     watching the engine: which operators run, and how many operations they do
profile.py   where the time of a training step goes, operator by operator
workers.py   several workers that share a batch, against one
forecast.py  what more of them would do
cores.py     what more cores would do, by counting the pieces into which the work is cut
report.py    the numbers to reach, the table and the JSON
The command is in commands/bench.py.
"""
