// What memory can give: the bound on everything that reads its weights once, as decoding does.
#pragma once

namespace nibble {

/// Bytes a second, the best of several reads of a buffer that is several times the caches. `threads` 0: one a core.
double cpu_read_bandwidth(int threads);
/// The same of the current GPU. Throws Error{kUnsupported} in a build without CUDA.
double cuda_read_bandwidth();

}  // namespace nibble
