// Reads what torch.save writes: a zip archive of one pickle and one record for each storage. libzip takes the archive
// apart; storages that are not compressed are served from the mapping.
// Container: pytorch/caffe2/serialize/inline_container.cc.
#include <zip.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "models/checkpoint/checkpoint.h"
#include "models/checkpoint/host_buffer.h"
#include "models/checkpoint/mapped_file.h"
#include "models/checkpoint/pickle.h"
#include "models/checkpoint/quote.h"
#include "models/checkpoint/state_dict.h"
#include "nibble/error.h"

namespace nibble {
namespace {

using namespace std::string_view_literals;

constexpr zip_int64_t kMaxRecords = 1'000'000;
/// Deflate cannot expand one byte into more than this (zlib's technical notes), so a larger claim is a lie.
constexpr std::uint64_t kMaxDeflateRatio = 1032;

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what,
                       ErrorKind kind = ErrorKind::kFormat) {
  throw Error(kind, file.string() + ": " + what);
}

/// One file within the archive.
struct Record {
  zip_uint64_t index;
  std::uint64_t bytes;
  bool stored;  ///< as it is, not compressed
};

/// The mapping as libzip sees it. It remembers where it was last read: libzip does not say where in the archive a
/// record's bytes begin, but reading the first of them shows it.
struct ArchiveBytes {
  std::span<const std::byte> bytes;
  std::uint64_t position = 0;
  std::uint64_t last_read = 0;
  zip_error_t error = {};
};

zip_int64_t serve(void* user, void* data, zip_uint64_t length, zip_source_cmd_t command) {
  auto& archive = *static_cast<ArchiveBytes*>(user);
  switch (command) {
    case ZIP_SOURCE_OPEN:
      archive.position = 0;
      return 0;
    case ZIP_SOURCE_READ: {
      const std::uint64_t count = std::min<std::uint64_t>(length, archive.bytes.size() - archive.position);
      if (count > 0) std::memcpy(data, archive.bytes.data() + archive.position, count);
      archive.last_read = std::exchange(archive.position, archive.position + count);
      return static_cast<zip_int64_t>(count);
    }
    case ZIP_SOURCE_SEEK: {
      const zip_int64_t target =
          zip_source_seek_compute_offset(archive.position, archive.bytes.size(), data, length, &archive.error);
      if (target < 0) return -1;
      archive.position = static_cast<std::uint64_t>(target);
      return 0;
    }
    case ZIP_SOURCE_TELL:
      return static_cast<zip_int64_t>(archive.position);
    case ZIP_SOURCE_STAT: {
      auto* const status = static_cast<zip_stat_t*>(data);
      zip_stat_init(status);
      status->size = archive.bytes.size();
      status->valid = ZIP_STAT_SIZE;
      return sizeof *status;
    }
    case ZIP_SOURCE_ERROR:
      return zip_error_to_data(&archive.error, data, length);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE:
      return 0;
    case ZIP_SOURCE_SUPPORTS:
      return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE, ZIP_SOURCE_STAT,
                                            ZIP_SOURCE_ERROR, ZIP_SOURCE_FREE, ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL,
                                            ZIP_SOURCE_SUPPORTS, -1);
    default:
      zip_error_set(&archive.error, ZIP_ER_OPNOTSUPP, 0);
      return -1;
  }
}

/// An open archive over bytes that stay mapped. Not thread-safe.
class Archive {
 public:
  using Records = std::map<std::string, Record, std::less<>>;

  Archive(std::span<const std::byte> bytes, const std::filesystem::path& file) : file_(file), bytes_{.bytes = bytes} {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* const source = zip_source_function_create(serve, &bytes_, &error);
    zip_t* const archive = source ? zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error) : nullptr;
    if (!archive) {
      if (source) zip_source_free(source);
      const std::string reason = zip_error_strerror(&error);
      zip_error_fini(&error);
      nibble::fail(file_, "is a damaged or truncated zip archive: " + reason);
    }
    zip_error_fini(&error);
    archive_.reset(archive);
  }

  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  /// All records by name, names checked.
  Records records() const {
    const zip_int64_t count = zip_get_num_entries(archive_.get(), 0);
    if (count > kMaxRecords) fail("has " + std::to_string(count) + " records, more than any checkpoint");
    Records records;
    for (zip_uint64_t i = 0; i < static_cast<zip_uint64_t>(count); ++i) {
      zip_stat_t status;
      const char* const name = zip_get_name(archive_.get(), i, ZIP_FL_ENC_RAW);
      if (!name || zip_stat_index(archive_.get(), i, 0, &status) != 0) fail("has a damaged record list");
      const std::string record = std::string("record ") + quote(name);
      if (!is_safe(name)) fail(record + " has a name that leaves the archive");
      if (status.encryption_method != ZIP_EM_NONE) fail(record + " is encrypted");
      const bool stored = status.comp_method == ZIP_CM_STORE;
      if (!stored && status.comp_method != ZIP_CM_DEFLATE) {
        fail(record + " is compressed by method " + std::to_string(status.comp_method) + "; expected none or deflate");
      }
      const bool possible =
          stored ? status.size == status.comp_size : status.size / kMaxDeflateRatio <= status.comp_size;
      if (!possible || status.comp_size > bytes_.bytes.size()) {
        fail(record + " claims " + std::to_string(status.size) + " bytes, which it cannot hold");
      }
      if (!records.emplace(name, Record{i, status.size, stored}).second) fail(record + " occurs twice");
    }
    return records;
  }

  std::string_view first_name() const {
    const char* const name = zip_get_name(archive_.get(), 0, ZIP_FL_ENC_RAW);
    return name ? name : "";
  }

  /// Copies the record out, checksum verified. `to` has the record's size.
  void read(const Record& record, std::span<std::byte> to) const {
    const Reader reader = open(record);
    std::size_t done = 0;
    while (done < to.size()) {
      const zip_int64_t count = zip_fread(reader.get(), to.data() + done, to.size() - done);
      if (count <= 0) fail("record " + quote(name_of(record)) + " is damaged or truncated");
      done += static_cast<std::size_t>(count);
    }
    std::byte beyond;  // the checksum is compared when the end is reached
    if (zip_fread(reader.get(), &beyond, 1) != 0) fail("record " + quote(name_of(record)) + " fails its checksum");
  }

  /// Where in the file the bytes of a stored record lie.
  std::uint64_t payload_offset(const Record& record) {
    if (record.bytes == 0) return 0;
    const Reader reader = open(record);
    std::byte first;
    const bool read = zip_fread(reader.get(), &first, 1) == 1;
    if (!read || record.bytes > bytes_.bytes.size() - bytes_.last_read) {
      fail("record " + quote(name_of(record)) + " is damaged or truncated");
    }
    return bytes_.last_read;
  }

 private:
  struct Discard {
    void operator()(zip_t* archive) const { zip_discard(archive); }
    void operator()(zip_file_t* reader) const { zip_fclose(reader); }
  };
  using Reader = std::unique_ptr<zip_file_t, Discard>;

  [[noreturn]] void fail(const std::string& what) const { nibble::fail(file_, what); }

  static bool is_safe(std::string_view name) {
    const std::filesystem::path path(name);
    return path.is_relative() && name.find('\\') == name.npos && std::ranges::find(path, "..") == path.end();
  }

  std::string_view name_of(const Record& record) const {
    return zip_get_name(archive_.get(), record.index, ZIP_FL_ENC_RAW);
  }

  Reader open(const Record& record) const {
    Reader reader(zip_fopen_index(archive_.get(), record.index, 0));
    if (!reader) fail("record " + quote(name_of(record)) + " is damaged: " + zip_strerror(archive_.get()));
    return reader;
  }

  const std::filesystem::path& file_;
  ArchiveBytes bytes_;
  std::unique_ptr<zip_t, Discard> archive_;
};

/// The bytes of a zip archive as they are; refuses, each by its name, the other things called pytorch_model.bin.
std::span<const std::byte> zip_bytes(std::span<const std::byte> bytes, const std::filesystem::path& file) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  constexpr std::size_t kTarMagic = 257;
  const auto convert = [](const char* weights_only) {
    return "; convert it with: python -c \"import sys, torch; torch.save(torch.load(sys.argv[1], weights_only=" +
           std::string(weights_only) + "), sys.argv[2])\" OLD NEW";
  };
  if (text.starts_with("PK\x03\x04"sv)) return bytes;
  // The magic number 0x1950a86a20f9469cfc6c, pickled (torch/serialization.py, MAGIC_NUMBER).
  if (text.starts_with("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"sv)) {
    fail(file, "is in the legacy (not zip) format that torch.save wrote before version 1.6" + convert("True"),
         ErrorKind::kUnsupported);
  }
  if (text.size() > kTarMagic && text.substr(kTarMagic).starts_with("ustar")) {
    fail(file,
         "is in the oldest format of torch.save, a tar archive, which PyTorch cannot open safely" + convert("False"),
         ErrorKind::kUnsupported);
  }
  if (text.empty()) fail(file, "is empty; expected a file written by torch.save");
  fail(file, "is not a zip archive; expected a file written by torch.save");
}

class TorchBin : public TensorFile {
 public:
  explicit TorchBin(const std::filesystem::path& file)
      : file_(file), mapping_(MappedFile::open(file)), archive_(zip_bytes(mapping_->bytes(), file_), file_) {
    const Records records = archive_.records();
    const std::string_view first = archive_.first_name();
    const std::size_t slash = first.find('/');
    if (slash == first.npos) fail("holds no folder; expected an archive written by torch.save");
    const std::string folder(first.substr(0, slash + 1));
    check_kind(records, folder);
    const HostBuffer pickle = read_pickle(records, folder);
    views_ = parse_state_dict(pickle.data, file_);
    for (const StateTensor& view : views_) {
      locate(records, folder, view);
      tensors_.push_back(view.info);
    }
    check_overlaps();
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

  HostTensor read(std::size_t index) const override {
    const StateTensor& view = views_.at(index);
    const std::string what = file_.string() + ": tensor " + quote(view.info.name);
    const HostTensor storage = read_storage(storages_.find(view.storage)->second, what);
    if (is_contiguous(view)) {
      return aligned(storage.data.subspan(view.offset, view.info.bytes()), storage.owner, view.info.dtype, what);
    }
    const HostBuffer copy = allocate(view.info.bytes(), what);
    gather(view, storage.data, copy.data);
    return {copy.data, copy.owner};
  }

 private:
  struct StoredRecord {
    Record record;
    std::uint64_t offset;  ///< of a stored record's bytes in the file
  };
  using Records = Archive::Records;

  [[noreturn]] void fail(const std::string& what, ErrorKind kind = ErrorKind::kFormat) const {
    nibble::fail(file_, what, kind);
  }

  void check_kind(const Records& records, const std::string& folder) const {
    const auto code = records.lower_bound(folder + "code/");
    if (records.contains(folder + "constants.pkl") ||
        (code != records.end() && code->first.starts_with(folder + "code/"))) {
      fail("is a TorchScript archive (it carries code); expected a state dict saved with torch.save",
           ErrorKind::kUnsupported);
    }
    const auto order = records.find(folder + "byteorder");
    if (order == records.end()) return;
    std::array<char, 6> text = {};
    const std::size_t length = std::min<std::size_t>(order->second.bytes, text.size());
    if (order->second.bytes <= text.size())
      archive_.read(order->second, std::as_writable_bytes(std::span(text).first(length)));
    const std::string_view found(text.data(), length);
    if (found == "little") return;
    fail(found == "big" ? "was written on a big-endian machine; only little-endian files can be read"
                        : "has the byte order " + quote(found) + "; expected 'little'",
         ErrorKind::kUnsupported);
  }

  HostBuffer read_pickle(const Records& records, const std::string& folder) const {
    const auto found = records.find(folder + "data.pkl");
    if (found == records.end())
      fail("has no record " + quote(folder + "data.pkl") + "; it was not written by torch.save");
    if (found->second.bytes > kMaxPickleBytes) {
      fail("data.pkl claims " + std::to_string(found->second.bytes) + " bytes; at most " +
           std::to_string(kMaxPickleBytes) + " are expected");
    }
    const HostBuffer buffer = allocate(found->second.bytes, file_.string() + ": data.pkl");
    archive_.read(found->second, buffer.data);
    return buffer;
  }

  /// Finds the record of the view's storage and checks that it is as long as the pickle says.
  void locate(const Records& records, const std::string& folder, const StateTensor& view) {
    const auto found = records.find(folder + "data/" + view.storage);
    const std::string tensor = "tensor " + quote(view.info.name);
    if (found == records.end()) {
      fail(tensor + " refers to the storage " + quote(view.storage) + ", which the archive does not hold");
    }
    const Record& record = found->second;
    if (record.bytes != view.storage_bytes) {
      fail(tensor + " expects the storage " + quote(view.storage) + " to have " + std::to_string(view.storage_bytes) +
           " bytes; it has " + std::to_string(record.bytes));
    }
    if (storages_.contains(view.storage)) return;
    storages_.emplace(view.storage, StoredRecord{record, record.stored ? archive_.payload_offset(record) : 0});
  }

  void check_overlaps() const {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  // begin, end
    for (const auto& [key, storage] : storages_) {
      if (storage.record.stored && storage.record.bytes > 0) {
        ranges.emplace_back(storage.offset, storage.offset + storage.record.bytes);
      }
    }
    std::ranges::sort(ranges);
    const auto overlap = std::ranges::adjacent_find(
        ranges, [](const auto& left, const auto& right) { return left.second > right.first; });
    if (overlap != ranges.end()) fail("has storages that overlap at byte " + std::to_string(overlap->second));
  }

  HostTensor read_storage(const StoredRecord& storage, const std::string& what) const {
    if (storage.record.stored) {
      const std::span<const std::byte> data = mapping_->bytes().subspan(storage.offset, storage.record.bytes);
      return {data, MappedFile::hold(mapping_, data)};
    }
    const HostBuffer buffer = allocate(storage.record.bytes, what);
    const std::scoped_lock lock(reading_);
    archive_.read(storage.record, buffer.data);
    return {buffer.data, buffer.owner};
  }

  std::filesystem::path file_;
  std::shared_ptr<const MappedFile> mapping_;
  Archive archive_;
  mutable std::mutex reading_;  ///< guards archive_ once the file is open
  std::vector<StateTensor> views_;
  std::vector<TensorInfo> tensors_;  ///< parallel to views_
  std::map<std::string, StoredRecord, std::less<>> storages_;
};

}  // namespace

std::unique_ptr<TensorFile> open_torch_bin(const std::filesystem::path& file) {
  return std::make_unique<TorchBin>(file);
}

}  // namespace nibble
