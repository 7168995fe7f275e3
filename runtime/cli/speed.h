// How fast it was.
#pragma once

#include <string>

#include "nibble/session.h"

namespace nibble::cli {

/// Tokens per second; 0 when no time passed.
double prefill_rate(const GenerateStats& stats);
double decode_rate(const GenerateStats& stats);

/// The line after a generation, in the form of llama.cpp's.
std::string speed_line(const GenerateStats& stats);

}  // namespace nibble::cli
