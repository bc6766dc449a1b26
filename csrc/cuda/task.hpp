// One call of the engine in full, and how it becomes launches.
#pragma once

#include "vgf/cuda.hpp"

namespace vgf::cuda {

// The phases of a call are those of a Program (program.hpp), for any number of particles a state. Null: not asked for.
struct Task {
  Precision precision;
  Sizes sizes;
  const float *obs, *start;
  const Network *policy, *critic, *judge;
  StepCount euler_steps;
  FlowOptions options;  // its clip also ends the sampling
  StepCount steps, first_step;  // first_step: its number, from 1; with `at`, steps.value is what there may be
  const float* given;
  float *first, *second;
  float *q, *dq, *jacobian, *phi, *particles;
  bool trajectory;
  float *actions, *target;
  Selection selection;
  Target reduction;
};

// The bytes of workspace that the task needs; enqueues it where the workspace has memory.
std::size_t enqueue(const Task&, const Workspace&);

}  // namespace vgf::cuda
