// Which tokenizer a checkpoint directory holds: one row per kind of file.
#include <algorithm>
#include <array>
#include <fstream>

#include "nibble/error.h"
#include "tokenizer/bpe_tokenizer.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/settings.h"
#include "tokenizer/tokenizer.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code none;
  return fs::exists(path, none);
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(ErrorKind::kIo, path.string() + " cannot be opened for reading.");
  std::string text;
  std::array<char, 1 << 16> block;
  do {
    in.read(block.data(), block.size());
    text.append(block.data(), static_cast<std::size_t>(in.gcount()));
  } while (in);
  if (in.bad()) throw Error(ErrorKind::kIo, path.string() + " cannot be read to its end.");
  return text;
}

std::string read_if_present(const fs::path& path) { return is_there(path) ? read_file(path) : std::string(); }

Settings read_settings(const fs::path& directory) {
  const fs::path config = directory / "tokenizer_config.json";
  const fs::path map = directory / "special_tokens_map.json";
  return parse_settings(read_if_present(config), config.string(), read_if_present(map), map.string());
}

using Paths = std::vector<fs::path>;

std::unique_ptr<Tokenizer> open_json(const Paths& paths, Settings settings) {
  return parse_tokenizer_json(read_file(paths[0]), paths[0].string(), settings);
}

std::unique_ptr<Tokenizer> open_vocab_and_merges(const Paths& paths, Settings settings) {
  return parse_vocab_and_merges(read_file(paths[0]), paths[0].string(), read_file(paths[1]), paths[1].string(),
                                std::move(settings));
}

std::unique_ptr<Tokenizer> open_sentencepiece(const Paths& paths, Settings settings) {
  return parse_sentencepiece(read_file(paths[0]), paths[0].string(), std::move(settings));
}

struct Kind {
  std::vector<std::string> files;  ///< all of them are needed
  std::unique_ptr<Tokenizer> (*open)(const Paths& paths, Settings settings);
};

/// In the order they are looked for.
const std::array<Kind, 5>& kinds() {
  static const std::array<Kind, 5> all = {{
      {{"tokenizer.json"}, open_json},
      {{"vocab.json", "merges.txt"}, open_vocab_and_merges},
      {{"tokenizer.model"}, open_sentencepiece},
      {{"sentencepiece.bpe.model"}, open_sentencepiece},
      {{"spiece.model"}, open_sentencepiece},
  }};
  return all;
}

}  // namespace

bool has_tokenizer(const fs::path& directory) {
  return std::ranges::any_of(kinds(), [&](const Kind& kind) {
    return std::ranges::any_of(kind.files, [&](const std::string& file) { return is_there(directory / file); });
  });
}

std::unique_ptr<Tokenizer> open_tokenizer(const fs::path& directory) {
  for (const Kind& kind : kinds()) {
    Paths present;
    std::string missing;
    for (const std::string& file : kind.files) {
      if (is_there(directory / file)) {
        present.push_back(directory / file);
      } else {
        missing = file;
      }
    }
    if (present.empty()) continue;
    if (!missing.empty()) {
      throw Error(ErrorKind::kNotFound, directory.string() + " has " + present[0].filename().string() + " but not " +
                                            missing + ", and a tokenizer needs both.");
    }
    return kind.open(present, read_settings(directory));
  }
  return nullptr;
}

}  // namespace nibble
