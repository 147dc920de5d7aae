// SPDX-License-Identifier: Apache-2.0
// A motor that is brought to its set point; then the loop idles.
#include <cmath>
#include <cstdio>
#include <unistd.h>

#include "pid.h"

int main()
{
	Pid pid{2.0, 0.5, 0.1, 0, 0};
	double speed = 0;
	int steps = 0;

	for (; std::fabs(speed - 10) > 0.01 && steps < 10000; steps++)
		speed += pid.step(10 - speed, 0.02) * 0.02;
	std::printf("controller version %s settled after %d steps\n", VERSION, steps);
	std::fflush(stdout);
	for (;;)
		pause();
}
