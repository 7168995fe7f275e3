// The line of tokens that kernels/sampling.h speaks of, in the memory of one thread.
#pragma once

namespace nibble {
namespace {

class TokenLine {
 public:
  /// `keys` has whole sixteens; those beyond the row are kKeys.
  TokenLine(const std::uint32_t* keys, int count, std::uint64_t* lengths, std::uint32_t* counts)
      : keys_(keys), count_(count), lengths_(lengths), counts_(counts) {}

  NIBBLE_HD std::uint32_t key_of_rank(std::uint32_t rank) {
    for (std::uint32_t i = 0; i < kHalfKeys; ++i) counts_[i] = 0;
    for (int i = 0; i < count_; ++i) {
      if (keys_[i] < kKeys) ++counts_[keys_[i] >> kHalfKey];
    }
    std::uint32_t first = 0;
    for (; first < kHalfKeys && rank > counts_[first]; ++first) rank -= counts_[first];
    if (first == kHalfKeys) return kKeys - 1;
    count_second_halves(first);
    std::uint32_t second = 0;
    for (; rank > counts_[second]; ++second) rank -= counts_[second];
    return (first << kHalfKey) + second;
  }

  NIBBLE_HD std::uint64_t measure(std::uint32_t keys) {
    for (std::uint32_t i = 0; i < kHalfKeys; ++i) lengths_[i] = 0;
    std::uint64_t total = 0;
    for (int first = 0; first < count_; first += 16) {
      std::uint32_t nearest = kKeys;
      for (int i = first; i < first + 16; ++i) nearest = keys_[i] < nearest ? keys_[i] : nearest;
      if (nearest >= keys) continue;
      std::uint64_t lengths[16];
      for (int i = 0; i < 16; ++i) lengths[i] = keys_[first + i] < keys ? length_of(keys_[first + i]) : 0;
      for (int i = 0; i < 16; ++i) {
        if (lengths[i] == 0) continue;
        lengths_[keys_[first + i] >> kHalfKey] += lengths[i];
        total += lengths[i];
      }
    }
    return total;
  }

  NIBBLE_HD Stand at(std::uint64_t place) {
    std::uint64_t before = 0;
    std::uint32_t first = 0;
    for (; place - before >= lengths_[first]; ++first) before += lengths_[first];
    count_second_halves(first);
    std::uint32_t key = first << kHalfKey;
    for (;; ++key) {
      const std::uint32_t count = counts_[key % kHalfKeys];
      if (count == 0) continue;
      const std::uint64_t length = count * length_of(key);
      if (place - before < length) return {key, before};
      before += length;
    }
  }

  NIBBLE_HD int token(std::uint32_t key, std::uint32_t skipped) const {
    int id = 0;
    while (keys_[id] != key || skipped-- > 0) ++id;
    return id;
  }

 private:
  NIBBLE_HD void count_second_halves(std::uint32_t first) {
    for (std::uint32_t i = 0; i < kHalfKeys; ++i) counts_[i] = 0;
    for (int i = 0; i < count_; ++i) {
      if (keys_[i] >> kHalfKey == first) ++counts_[keys_[i] % kHalfKeys];
    }
  }

  const std::uint32_t* keys_;
  int count_;
  std::uint64_t* lengths_;  // of the tokens of each first half of a key
  std::uint32_t* counts_;   // of tokens by one half of their keys
};

template <class T>
int choose(const T* logits, int count, const Draw& draw, const int* seen, std::size_t seen_count, void* scratch) {
  const bool penalises = draw.repetition_penalty != 1.0F && seen_count > 0;
  if (draw.temperature == 0.0F && !penalises) return argmax(logits, count);
  auto* lengths = static_cast<std::uint64_t*>(scratch);
  auto* counts = reinterpret_cast<std::uint32_t*>(lengths + kHalfKeys);
  auto* values = reinterpret_cast<float*>(counts + kHalfKeys);
  for (int i = 0; i < count; ++i) values[i] = to_float(logits[i]);
  if (penalises) {
    for (std::size_t i = 0; i < seen_count; ++i) {
      values[seen[i]] = penalised(to_float(logits[seen[i]]), draw.repetition_penalty);
    }
  }
  if (draw.temperature == 0.0F) return argmax(values, count);
  for (int i = 0; i < count; ++i) values[i] = values[i] / draw.temperature;
  const float largest = largest_of(values, count);
  // Keys take the places of the logits.
  auto* keys = reinterpret_cast<std::uint32_t*>(values);
  for (int i = 0; i < count; ++i) {
    const std::uint32_t key = key_of(values[i], largest);
    __builtin_memcpy(keys + i, &key, sizeof key);
  }
  for (int i = count; i < padded_to(count, 16); ++i) keys[i] = kKeys;
  TokenLine line(keys, count, lengths, counts);
  return draw_from(line, draw);
}

}  // namespace
}  // namespace nibble
