// What tokenizer_config.json and special_tokens_map.json say about a tokenizer, beside its vocabulary.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/json_value.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

/// A token given by its role, without an id.
struct NamedToken {
  std::string role;  ///< "bos_token"
  AddedToken token;
};

struct Settings {
  std::string file;  ///< for messages
  std::optional<bool> add_bos, add_eos;
  bool add_prefix_space = false;
  std::string tokenizer_class;  ///< of transformers
  std::vector<NamedToken> named;
  std::vector<AddedToken> added;  ///< added_tokens_decoder: with their ids

  const NamedToken* find(std::string_view role) const;
  /// Adds the token of a role that the files leave open.
  void set_default(const std::string& role, const std::string& content);
};

/// Either text may be empty: the file is absent. tokenizer_config.json goes before special_tokens_map.json.
Settings parse_settings(std::string_view config, const std::string& config_file, std::string_view map,
                        const std::string& map_file);

/// `tokens` with those of the settings, every id checked against the vocabulary: a token that is in both has the same
/// id, and no id belongs to two. A named token that nothing gives an id is an Error.
std::vector<AddedToken> with_settings(std::vector<AddedToken> tokens, const Settings& settings,
                                      const Vocabulary& vocabulary);

/// The template add_bos_token and add_eos_token ask for.
Template template_of(const Settings& settings, const std::vector<AddedToken>& tokens);

/// An added token without its id, as tokenizer.json and tokenizer_config.json write it.
AddedToken parse_added_token(const JsonValue& object);

}  // namespace nibble
