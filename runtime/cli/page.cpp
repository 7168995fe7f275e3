#include "runtime/cli/page.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <string_view>

#include "runtime/cli/render.h"

namespace nibble::cli {
namespace {

// Okabe and Ito's colours, which the colour-blind tell apart.
constexpr std::array<const char*, 8> kColors{"#0072b2", "#e69f00", "#009e73", "#d55e00",
                                             "#cc79a7", "#56b4e9", "#999999", "#b8a500"};

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fff}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}"
    "figure{display:inline-block;margin:0 1rem 1rem 0;vertical-align:top}figcaption{font-weight:600}"
    "svg{max-width:100%;height:auto}text{font:12px system-ui,sans-serif;fill:#444}"
    ".axis{stroke:#999;stroke-width:1}.mark{stroke:#222;stroke-width:2}.grid{stroke:#e4e4e4;stroke-width:1}"
    ".key{display:inline-block;margin-right:1.2em}.key span{display:inline-block;width:.8em;height:.8em;"
    "margin-right:.35em;border-radius:2px}";

std::string escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string label(double x, double y, const char* anchor, std::string_view text) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>", x, y, anchor, escaped(text));
}

std::string line(const char* style, double x1, double y1, double x2, double y2) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>", style, x1, y1, x2,
                     y2);
}

/// A rectangle that says `title` under the pointer.
std::string box(double x, double y, double width, double height, std::string_view color, std::string_view title) {
  return fmt::format(
      "<rect x=\"{:.2f}\" y=\"{:.2f}\" width=\"{:.2f}\" height=\"{:.2f}\" fill=\"{}\"><title>{}</title></rect>", x, y,
      width, height, color, escaped(title));
}

std::string picture(double width, double height, std::string_view body) {
  return fmt::format("<svg viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\">{2}</svg>", width, height,
                     body);
}

std::string figure(std::string_view caption, std::string_view body) {
  return fmt::format("<figure><figcaption>{}</figcaption>{}</figure>\n", escaped(caption), body);
}

std::string legend(const std::vector<std::string>& names) {
  std::string text = "<p>";
  for (std::size_t i = 0; i < names.size(); ++i) {
    text += fmt::format("<span class=\"key\"><span style=\"background:{}\"></span>{}</span>",
                        kColors[i % kColors.size()], escaped(names[i]));
  }
  return text + "</p>\n";
}

/// A bar for each scheme, its classes one behind the other, with a mark where Hugging Face's figure ends.
std::string memory_section(const std::vector<SchemeReport>& schemes) {
  constexpr double kLeft = 70;
  constexpr double kRight = 90;
  constexpr double kWidth = 900;
  constexpr double kRow = 30;
  constexpr double kBar = 20;
  std::uint64_t most = 1;
  for (const SchemeReport& report : schemes) {
    most = std::max({most, report.ledger.weights(), report.ledger.huggingface});
  }
  const double scale = (kWidth - kLeft - kRight) / static_cast<double>(most);

  std::string body;
  double y = 4;
  for (const SchemeReport& report : schemes) {
    body += label(kLeft - 8, y + 15, "end", to_string(report.scheme));
    double x = kLeft;
    for (int i = 0; i <= static_cast<int>(MemoryClass::kOther); ++i) {
      const auto memory_class = static_cast<MemoryClass>(i);
      const std::uint64_t bytes = report.ledger[memory_class];
      const double width = static_cast<double>(bytes) * scale;
      body += box(x, y, width, kBar, kColors[static_cast<std::size_t>(i)],
                  fmt::format("{}: {} MB", to_string(memory_class), megabytes(bytes)));
      x += width;
    }
    const double mark = kLeft + static_cast<double>(report.ledger.huggingface) * scale;
    body += line("mark", mark, y - 3, mark, y + kBar + 3);
    body += label(std::max(x, mark) + 6, y + 15, "start", megabytes(report.ledger.weights()) + " MB");
    y += kRow;
  }
  std::vector<std::string> classes;
  for (int i = 0; i <= static_cast<int>(MemoryClass::kOther); ++i) {
    classes.emplace_back(to_string(static_cast<MemoryClass>(i)));
  }
  return "<h2>Memory</h2>\n<p>Weights with all that decoding needs; the mark is what Hugging Face's "
         "<code>get_memory_footprint()</code> returns, which leaves the quantization state out.</p>\n" +
         legend(classes) + picture(kWidth, y + 4, body) + "\n";
}

/// "decoder.layers.3.self_attn.q_proj.weight" is q_proj of layer 3; a weight outside the layers has no place.
struct Place {
  int layer;
  std::string kind;
};

std::optional<Place> place_of(const std::string& name) {
  constexpr std::string_view kLayers = "layers.";
  const std::size_t start = name.find(kLayers);
  if (start == std::string::npos) return std::nullopt;
  const std::size_t end = name.rfind('.');
  const std::size_t kind = name.rfind('.', end - 1) + 1;
  return Place{std::stoi(name.substr(start + kLayers.size())), name.substr(kind, end - kind)};
}

/// Signal to noise by layer, a line for each kind of linear.
using Curves = std::map<std::string, std::map<int, double>>;

Curves curves_of(const SchemeWeights& scheme) {
  Curves curves;
  for (const TensorReport& weight : scheme.weights) {
    const std::optional<Place> place = place_of(weight.name);
    if (place && weight.max_error > 0) curves[place->kind][place->layer] = weight.snr_db;
  }
  return curves;
}

std::string error_picture(const Curves& curves, double low, double high, int layers) {
  constexpr double kLeft = 44;
  constexpr double kTop = 8;
  constexpr double kWidth = 270;
  constexpr double kHeight = 160;
  const auto x = [&](int layer) { return kLeft + kWidth * (layer + 0.5) / layers; };
  const auto y = [&](double decibel) { return kTop + kHeight * (high - decibel) / (high - low); };
  std::string body;
  constexpr int kTicks = 4;
  for (int i = 0; i <= kTicks; ++i) {
    const double value = low + (high - low) * i / kTicks;
    body += line("grid", kLeft, y(value), kLeft + kWidth, y(value));
    body += label(kLeft - 6, y(value) + 4, "end", fmt::format("{:.0f} dB", value));
  }
  std::size_t color = 0;
  for (const auto& [kind, points] : curves) {
    std::string path;
    std::string dots;
    for (const auto& [layer, decibel] : points) {
      path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : " L", x(layer), y(decibel));
      dots += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"><title>{} of layer {}: {:.2f} dB</title></circle>",
          x(layer), y(decibel), kColors[color % kColors.size()], escaped(kind), layer, decibel);
    }
    body += fmt::format("<path d=\"{}\" fill=\"none\" stroke=\"{}\"/>", path, kColors[color % kColors.size()]) + dots;
    ++color;
  }
  body += line("axis", kLeft, kTop + kHeight, kLeft + kWidth, kTop + kHeight);
  for (const int layer : {0, layers - 1}) {
    body += label(x(layer), kTop + kHeight + 16, "middle", fmt::format("layer {}", layer));
  }
  return picture(kLeft + kWidth + 30, kTop + kHeight + 22, body);
}

std::string error_section(const std::vector<SchemeWeights>& schemes) {
  std::vector<std::pair<Scheme, Curves>> all;
  std::vector<std::string> kinds;
  double low = std::numeric_limits<double>::max();
  double high = std::numeric_limits<double>::lowest();
  int layers = 0;
  for (const SchemeWeights& scheme : schemes) {
    Curves curves = curves_of(scheme);
    if (curves.empty()) continue;
    kinds.clear();
    for (const auto& [kind, points] : curves) {
      kinds.push_back(kind);
      for (const auto& [layer, decibel] : points) {
        low = std::min(low, decibel);
        high = std::max(high, decibel);
        layers = std::max(layers, layer + 1);
      }
    }
    all.emplace_back(scheme.scheme, std::move(curves));
  }
  std::string text = "<h2>Error by layer</h2>\n";
  if (all.empty()) {
    return text + "<p>The checkpoint is quantized already: there is nothing to compare its weights with.</p>\n";
  }
  text +=
      "<p>Signal to noise of each weight, 10 log<sub>10</sub>(&#8721; w&#178; / &#8721; (decoded &#8722; w)&#178;): "
      "higher is better, 6 dB are one bit.</p>\n" +
      legend(kinds);
  for (const auto& [scheme, curves] : all) {
    text += figure(to_string(scheme), error_picture(curves, std::floor(low - 1), std::ceil(high + 1), layers));
  }
  return text;
}

/// A bar at each level, as high as the share of weights that stand there.
std::string histogram_picture(const TensorReport& report) {
  constexpr double kTop = 8;
  constexpr double kWidth = 310;
  constexpr double kHeight = 150;
  constexpr double kMargin = 16;
  std::uint64_t total = 0;
  for (const std::uint64_t count : report.histogram) total += count;
  const auto most = static_cast<double>(std::max<std::uint64_t>(1, *std::ranges::max_element(report.histogram)));
  const auto x = [&](double level) { return kMargin + kWidth * (level + 1) / 2; };
  const double width = report.levels.size() > 16 ? kWidth / static_cast<double>(report.levels.size()) : 8.0;
  std::string body;
  for (std::size_t i = 0; i < report.levels.size(); ++i) {
    const auto count = static_cast<double>(report.histogram[i]);
    const double height = kHeight * count / most;
    body +=
        box(x(static_cast<double>(report.levels[i])) - width / 2, kTop + kHeight - height, width, height, kColors[0],
            fmt::format("{:+.4f}: {:.2f} %", report.levels[i], 100 * count / static_cast<double>(total)));
  }
  body += line("axis", kMargin, kTop + kHeight, kMargin + kWidth, kTop + kHeight);
  for (const double level : {-1.0, -0.5, 0.0, 0.5, 1.0}) {
    body += label(x(level), kTop + kHeight + 16, "middle", fmt::format("{:+.1f}", level));
  }
  return picture(kWidth + 2 * kMargin, kTop + kHeight + 22, body);
}

std::string histogram_section(const std::vector<SchemeWeights>& schemes, const std::string& shown) {
  std::string text = fmt::format(
      "<h2>Weights over the levels: {}</h2>\n<p>What a code stands for before it is multiplied by its block's (or "
      "row's) largest magnitude, and how many weights have it.</p>\n",
      escaped(shown));
  for (const SchemeWeights& scheme : schemes) {
    const auto weight = std::ranges::find(scheme.weights, shown, &TensorReport::name);
    if (weight == scheme.weights.end() || weight->levels.empty()) continue;
    const std::string error = weight->max_error > 0 ? fmt::format(", {:.2f} dB", weight->snr_db) : "";
    text += figure(fmt::format("{}{}", to_string(scheme.scheme), error), histogram_picture(*weight));
  }
  return text;
}

}  // namespace

std::string html_page(const std::string& model, const ModelReport& sizes, const std::vector<SchemeWeights>& schemes,
                      const std::string& shown) {
  return fmt::format(
             "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<title>{0}</title>\n"
             "<style>{1}</style>\n</head>\n<body>\n<h1>What quantization does to {0}</h1>\n",
             escaped(model), kStyle) +
         memory_section(sizes.schemes) + error_section(schemes) + histogram_section(schemes, shown) +
         "</body>\n</html>\n";
}

}  // namespace nibble::cli
