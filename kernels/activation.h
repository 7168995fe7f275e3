// The activation functions, for every device.
#pragma once

#include <math.h>

#include "kernels/numeric.h"

namespace nibble {

/// `activation_function` of transformers' OPTConfig.
enum class Activation : std::uint8_t { kIdentity, kRelu, kGelu, kGeluTanh, kSilu, kQuickGelu, kRelu2, kRelu6 };

/// transformers' activations.py, on one number. NaNs stay NaNs.
NIBBLE_HD float activated(float x, Activation activation) {
  switch (activation) {
    case Activation::kIdentity:
      return x;
    case Activation::kRelu:
      return x < 0 ? 0.0F : x;
    case Activation::kGelu:
      return 0.5F * x * (1.0F + ::erff(x * 0.707106781F));
    case Activation::kGeluTanh:
      return 0.5F * x * (1.0F + ::tanhf(0.797884561F * (x + 0.044715F * x * x * x)));
    case Activation::kSilu:
      return x / (1.0F + ::expf(-x));
    case Activation::kQuickGelu:
      return x / (1.0F + ::expf(-1.702F * x));
    case Activation::kRelu2:
      return x < 0 ? 0.0F : x * x;
    case Activation::kRelu6:
      return x < 0 ? 0.0F : x > 6 ? 6.0F : x;
  }
  return x;
}

}  // namespace nibble
