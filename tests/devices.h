// The devices that tests can run on here.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/backend.h"
#include "nibble/error.h"

namespace nibble {

/// Whether this build has a CUDA backend and this machine a GPU for it.
inline bool has_cuda() {
  static const bool found = [] {
    try {
      make_cuda_backend();
      return true;
    } catch (const Error&) {
      return false;
    }
  }();
  return found;
}

inline std::vector<Device> devices() {
  return has_cuda() ? std::vector{Device::kCpu, Device::kCuda} : std::vector{Device::kCpu};
}

inline std::string device_name(const ::testing::TestParamInfo<Device>& info) {
  return std::string(to_string(info.param));
}

}  // namespace nibble
