#include "tokenizer/normalizer.h"

#include <unicode/normalizer2.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <limits>

#include "nibble/error.h"

namespace nibble {
namespace {

void check(UErrorCode status) {
  if (U_FAILURE(status)) {
    throw Error(ErrorKind::kUnsupported,
                "The ICU library cannot normalize text as NFKC (" + std::string(u_errorName(status)) + ").");
  }
}

const icu::Normalizer2& nfkc_of_unicode_9() {
  static const icu::FilteredNormalizer2 normalizer = [] {
    UErrorCode status = U_ZERO_ERROR;
    const auto* newest = icu::Normalizer2::getNFKCInstance(status);
    static const icu::UnicodeSet known(u"[:age=9.0:]", status);
    check(status);
    return icu::FilteredNormalizer2(*newest, known);
  }();
  return normalizer;
}

}  // namespace

std::string keep_as_written(std::string_view text) { return std::string(text); }

std::string nfkc(std::string_view text) {
  const auto is_ascii = [](char c) { return static_cast<unsigned char>(c) < 0x80; };
  if (std::all_of(text.begin(), text.end(), is_ascii)) return std::string(text);
  if (text.size() > std::numeric_limits<int32_t>::max()) {
    throw Error(ErrorKind::kInvalidArgument, "A text of " + std::to_string(text.size()) +
                                                 " bytes is too long to normalize as NFKC; the limit is 2 GiB.");
  }
  UErrorCode status = U_ZERO_ERROR;
  const auto utf16 = icu::UnicodeString::fromUTF8({text.data(), static_cast<int32_t>(text.size())});
  const icu::UnicodeString normalized = nfkc_of_unicode_9().normalize(utf16, status);
  check(status);
  std::string out;
  normalized.toUTF8String(out);
  return out;
}

}  // namespace nibble
