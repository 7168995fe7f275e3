// SentencePiece models (Kudo and Richardson, arXiv:1808.06226), BPE and unigram, through the SentencePiece library.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "tokenizer/settings.h"
#include "tokenizer/tokenizer.h"

namespace nibble {

/// `model` is the bytes of a *.model file, `file` its name for messages. A text begins with the settings' bos_token,
/// and with `</s>` where they say nothing, as OPT's does. Throws Error when the model is damaged.
std::unique_ptr<Tokenizer> parse_sentencepiece(std::string_view model, const std::string& file, Settings settings);

}  // namespace nibble
