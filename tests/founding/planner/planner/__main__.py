# SPDX-License-Identifier: Apache-2.0
import signal

from planner import VERSION
from planner.grid import shortest

MAP = ["....#....",
       ".##.#.##.",
       ".#..#..#.",
       ".#.##.##.",
       "........."]

print("planner version", VERSION, "way of", len(shortest(MAP, (0, 0), (0, 8))), "steps", flush=True)
while True:
    signal.pause()
