#include "kernels/layout/weight.h"

#include "kernels/dispatch.h"

namespace nibble {

int rows(const Weight& weight) {
  return with_layout(weight, [](const auto& layout) { return layout.n; });
}

int cols(const Weight& weight) {
  return with_layout(weight, [](const auto& layout) { return layout.k; });
}

std::uint64_t code_bytes(const Weight& weight) {
  return with_layout(weight, [](const auto& layout) { return layout.code_bytes(); });
}

std::uint64_t state_bytes(const Weight& weight) {
  return with_layout(weight, [](const auto& layout) { return layout.state_bytes(); });
}

void decode_all(const Weight& weight, std::span<float> values) {
  with_layout(weight, [values](const auto& layout) {
    const auto view = layout.view();
    auto value = values.begin();
    for (int row = 0; row < view.n; ++row) {
      for (int col = 0; col < view.k; ++col) *value++ = view.decode(row, col);
    }
  });
}

}  // namespace nibble
