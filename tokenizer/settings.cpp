#include "tokenizer/settings.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

#include "nibble/error.h"
#include "tokenizer/piece_table.h"

namespace nibble {
namespace {

constexpr const char* kRoles[] = {"bos_token", "eos_token", "unk_token", "pad_token",
                                  "sep_token", "cls_token", "mask_token"};
constexpr const char* kListRoles[] = {"additional_special_tokens", "extra_special_tokens"};

AddedToken parse_special(const JsonValue& value) {
  AddedToken token = value.is_string() ? AddedToken{.content = value.string()} : parse_added_token(value);
  token.special = true;
  return token;
}

void parse_roles(const JsonValue& object, Settings& settings) {
  for (const std::string role : kRoles) {
    const auto value = object.find(role);
    if (value && !settings.find(role)) settings.named.push_back({role, parse_special(*value)});
  }
  for (const std::string role : kListRoles) {
    const auto value = object.find(role);
    if (!value || !value->is_array() || settings.find(role)) continue;
    for (const JsonValue& item : value->items()) settings.named.push_back({role, parse_special(item)});
  }
}

int parse_id_key(const std::string& key, const JsonValue& value) {
  int id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc() || end != key.data() + key.size() || id < 0 || id >= kMaxVocabulary) {
    value.fail(ErrorKind::kFormat,
               "must have a token id from 0 to " + std::to_string(kMaxVocabulary - 1) + " as its name");
  }
  return id;
}

AddedToken* find_content(std::vector<AddedToken>& tokens, const std::string& content) {
  const auto found =
      std::find_if(tokens.begin(), tokens.end(), [&](const AddedToken& token) { return token.content == content; });
  return found == tokens.end() ? nullptr : &*found;
}

void check_ids(const std::vector<AddedToken>& tokens, const Vocabulary& vocabulary, const std::string& file) {
  std::unordered_set<int> taken;
  for (const auto& [content, id] : vocabulary) taken.insert(id);
  for (const AddedToken& token : tokens) {
    const auto known = vocabulary.find(token.content);
    const bool agrees = known == vocabulary.end() ? taken.insert(token.id).second : known->second == token.id;
    if (agrees) continue;
    const std::string found = known == vocabulary.end()
                                  ? "is the id of another token"
                                  : "contradicts id " + std::to_string(known->second) + " in the vocabulary";
    throw Error(ErrorKind::kFormat, file + ": the added token \"" + token.content + "\" has id " +
                                        std::to_string(token.id) + ", which " + found + ".");
  }
}

}  // namespace

const NamedToken* Settings::find(std::string_view role) const {
  const auto found = std::find_if(named.begin(), named.end(), [&](const NamedToken& n) { return n.role == role; });
  return found == named.end() ? nullptr : &*found;
}

void Settings::set_default(const std::string& role, const std::string& content) {
  if (!find(role)) named.push_back({role, {.content = content, .special = true}});
}

AddedToken parse_added_token(const JsonValue& object) {
  AddedToken token;
  token.content = object.at("content").string();
  token.special = object.flag("special", false);
  token.single_word = object.flag("single_word", false);
  token.lstrip = object.flag("lstrip", false);
  token.rstrip = object.flag("rstrip", false);
  token.normalized = object.flag("normalized", !token.special);
  return token;
}

Settings parse_settings(std::string_view config, const std::string& config_file, std::string_view map,
                        const std::string& map_file) {
  Settings settings{.file = config_file, .add_bos = {}, .add_eos = {}, .tokenizer_class = {}, .named = {}, .added = {}};
  if (!config.empty()) {
    const JsonValue root = JsonValue::parse(config, config_file);
    if (const auto add_bos = root.find("add_bos_token")) settings.add_bos = add_bos->boolean();
    if (const auto add_eos = root.find("add_eos_token")) settings.add_eos = add_eos->boolean();
    settings.add_prefix_space = root.flag("add_prefix_space", false);
    if (const auto name = root.find("tokenizer_class")) settings.tokenizer_class = name->string();
    parse_roles(root, settings);
    if (const auto added = root.find("added_tokens_decoder")) {
      for (const auto& [key, value] : added->members()) {
        settings.added.push_back(parse_added_token(value));
        settings.added.back().id = parse_id_key(key, value);
      }
    }
  }
  if (!map.empty()) parse_roles(JsonValue::parse(map, map_file), settings);
  return settings;
}

std::vector<AddedToken> with_settings(std::vector<AddedToken> tokens, const Settings& settings,
                                      const Vocabulary& vocabulary) {
  for (const AddedToken& token : settings.added) {
    AddedToken* known = find_content(tokens, token.content);
    if (!known) {
      tokens.push_back(token);
    } else if (known->id == token.id) {
      known->special = known->special || token.special;
    } else {
      throw Error(ErrorKind::kFormat, settings.file + ": the added token \"" + token.content + "\" has id " +
                                          std::to_string(token.id) + ", and id " + std::to_string(known->id) +
                                          " in tokenizer.json.");
    }
  }
  for (const NamedToken& named : settings.named) {
    if (AddedToken* known = find_content(tokens, named.token.content)) {
      known->special = true;
      continue;
    }
    const auto known = vocabulary.find(named.token.content);
    if (known == vocabulary.end()) {
      throw Error(ErrorKind::kFormat,
                  settings.file + ": the " + named.role + " \"" + named.token.content + "\" is not in the vocabulary.");
    }
    tokens.push_back(named.token);
    tokens.back().id = known->second;
  }
  check_ids(tokens, vocabulary, settings.file);
  return tokens;
}

Template template_of(const Settings& settings, const std::vector<AddedToken>& tokens) {
  const auto ids = [&](bool wanted, std::string_view role) {
    std::vector<int> found;
    const NamedToken* named = settings.find(role);
    if (!wanted || !named) return found;
    for (const AddedToken& token : tokens) {
      if (token.content == named->token.content) found = {token.id};
    }
    return found;
  };
  return {ids(settings.add_bos.value_or(false), "bos_token"), ids(settings.add_eos.value_or(false), "eos_token")};
}

}  // namespace nibble
