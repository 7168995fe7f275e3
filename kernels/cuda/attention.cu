// Which kernel takes which segments.
#include "kernels/cuda/attention.h"

#include "kernels/cuda/attend_one.cuh"
#include "kernels/cuda/attend_plain.cuh"
#include "kernels/cuda/attend_tiles.cuh"
#include "kernels/cuda/attend_wide.h"

namespace nibble {

template <class T>
void attend_on_device(const Launch& launch, const DeviceBatch& batch, const BatchShape& shape, Tensor q, Tensor k,
                      Tensor v, int layer, const KvCache& cache, Tensor y) {
  const std::int64_t place = cache.offset(layer, 0, 0);
  const AttendTask<T> task{q.row<T>(0),
                           k.row<T>(0),
                           v.row<T>(0),
                           const_cast<T*>(cache.keys.as<T>()) + place,
                           const_cast<T*>(cache.values.as<T>()) + place,
                           y.row<T>(0),
                           cache.heads,
                           cache.head_dim,
                           cache.context,
                           batch};
  const bool by_one = takes_one(cache.head_dim);
  if (by_one && shape.any_single) attend_one(launch, shape, task);
  if (by_one && !shape.any_longer) return;
  if constexpr (sizeof(T) == 2) {
    const bool tiles = takes_tiles(cache.head_dim);
    if (tiles && launch.is_hopper) return attend_wide(launch, shape, task);
    append_to_cache(launch, shape.rows, task);
    if (tiles) return attend_tiles(launch, shape, task);
  } else {
    append_to_cache(launch, shape.rows, task);
  }
  attend_plain(launch, shape, by_one ? 2 : 1, task);
}

template void attend_on_device<float>(const Launch&, const DeviceBatch&, const BatchShape&, Tensor, Tensor, Tensor, int,
                                      const KvCache&, Tensor);
template void attend_on_device<Half>(const Launch&, const DeviceBatch&, const BatchShape&, Tensor, Tensor, Tensor, int,
                                     const KvCache&, Tensor);
template void attend_on_device<BFloat16>(const Launch&, const DeviceBatch&, const BatchShape&, Tensor, Tensor, Tensor,
                                         int, const KvCache&, Tensor);

}  // namespace nibble
