// SPDX-License-Identifier: Apache-2.0
#pragma once

#define VERSION "1"

struct Pid {
	double kp, ki, kd, integral, last;
	double step(double error, double dt);
};
