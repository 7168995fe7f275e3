// What tiles are made of: sixteen lines of 64 bytes each. Included after a target's vectors.
#pragma once

namespace nibble {
namespace {

constexpr int kTile = 16;
constexpr int kTileLine = 64;
constexpr int kTileBytes = kTile * kTileLine;

/// Groups of multiplications for one line.
template <class Tiles>
constexpr int kLineProducts = Tiles::kWeightTerms*(2 * Tiles::kFactorTerms - Tiles::kWeightTerms + 1) / 2;

/// Places `stride` bytes apart.
template <class Byte>
struct Strided {
  Byte* first;
  std::ptrdiff_t stride;
  NIBBLE_HD Byte* operator[](int i) const { return first + i * stride; }
  NIBBLE_HD Strided from(int i) const { return {first + i * stride, stride}; }
};

}  // namespace
}  // namespace nibble
