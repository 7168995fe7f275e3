// The views of all layouts.
#pragma once

#include "kernels/cuda/view_dense.cuh"
#include "kernels/cuda/view_int4.cuh"
#include "kernels/cuda/view_int8.cuh"
#include "kernels/cuda/view_lut4.cuh"
