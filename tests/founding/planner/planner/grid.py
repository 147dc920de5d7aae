# SPDX-License-Identifier: Apache-2.0
"""The shortest way over a grid, by breadth-first search."""
import collections


def shortest(rows, start, goal):
    queue, came = collections.deque([start]), {start: None}
    while queue:
        at = queue.popleft()
        if at == goal:
            way = []
            while at:
                way.append(at)
                at = came[at]
            return way[::-1]
        y, x = at
        for there in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= there[0] < len(rows) and 0 <= there[1] < len(rows[0]) \
                    and rows[there[0]][there[1]] != "#" and there not in came:
                came[there] = at
                queue.append(there)
    return None
