// Choosing tokens on the device.
#pragma once

#include "kernels/cuda/linear.h"

namespace nibble {

/// A Choice as the kernel reads it: what has been seen is elements [seen_begin, seen_end) of the batch's.
struct DeviceChoice {
  Draw draw;
  int seen_begin, seen_end;
};

/// What has been chosen, for the next step and for the host.
struct Chosen {
  int* on_device;
  int* on_host;  ///< pinned
};

/// chosen[r] = the token that choices[r] chooses from row r of the logits.
template <class T>
void choose_tokens(const Launch& launch, Tensor logits, const DeviceChoice* choices, const int* seen, Chosen chosen);

}  // namespace nibble
