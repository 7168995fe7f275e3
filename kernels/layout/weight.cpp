#include "kernels/layout/weight.h"

namespace nibble {

int rows(const Weight& weight) {
  return std::visit([](const auto& layout) { return layout.n; }, weight);
}

int cols(const Weight& weight) {
  return std::visit([](const auto& layout) { return layout.k; }, weight);
}

std::uint64_t code_bytes(const Weight& weight) {
  return std::visit([](const auto& layout) { return layout.code_bytes(); }, weight);
}

std::uint64_t state_bytes(const Weight& weight) {
  return std::visit([](const auto& layout) { return layout.state_bytes(); }, weight);
}

void decode_all(const Weight& weight, std::span<float> values) {
  std::visit(
      [values](const auto& layout) {
        const auto view = layout.view();
        auto value = values.begin();
        for (int row = 0; row < view.n; ++row) {
          for (int col = 0; col < view.k; ++col) *value++ = view.decode(row, col);
        }
      },
      weight);
}

}  // namespace nibble
