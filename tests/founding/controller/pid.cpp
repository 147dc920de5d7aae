// SPDX-License-Identifier: Apache-2.0
#include "pid.h"

double Pid::step(double error, double dt)
{
	integral += error * dt;
	double derivative = (error - last) / dt;
	last = error;
	return kp * error + ki * integral + kd * derivative;
}
