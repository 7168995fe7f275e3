// nibble perplexity: how well a model predicts a text, alone and beside the same model held another way.
#include <spdlog/fmt/fmt.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "nibble/error.h"
#include "runtime/cli/commands.h"
#include "runtime/cli/json.h"
#include "runtime/cli/opening.h"
#include "runtime/cli/render.h"
#include "runtime/cli/windows.h"

namespace nibble::cli {
namespace {

/// What the model is compared with where it differs from it.
struct BaseArguments {
  std::optional<std::string> model;
  std::optional<Scheme> scheme;
  std::optional<DType> dtype;

  bool given() const { return model || scheme || dtype; }
};

struct PerplexityArguments {
  ModelArguments model;
  BaseArguments base;
  WindowOptions windows;
  std::string file;
  bool json = false;
};

void declare(CLI::App& app, PerplexityArguments& a) {
  add_model_flags(app, a.model);
  add_compute_flags(app, a.model.load);
  CLI::Option* const text =
      app.add_option("-f,--file", a.file, "Text to predict, UTF-8")->type_name("FILE")->take_last()->required();
  add_window_flags(app, a.windows, text);
  add_value(
      app, "--base-scheme", "NAME",
      [&](const FlagValue& value) { a.base.scheme = value.name(scheme_names("or"), parse_scheme); },
      "Compare with the model held as this scheme");
  add_value(
      app, "--base-dtype", "TYPE",
      [&](const FlagValue& value) { a.base.dtype = value.name("fp32, bf16 or fp16", parse_compute_dtype); },
      "Compare with the model computing in this dtype");
  add_value(
      app, "--base-model", "DIR", [&](const FlagValue& value) { a.base.model = value.text(); },
      "Compare with this model, which must have the same vocabulary");
  app.add_flag("--json", a.json, "Print one JSON document");
  app.footer("What --base-... does not name is as in the model. Divergences are in nats.");
}

/// The model compared with: what the flags name, and the rest as in the model that is measured.
Opened open_base(const PerplexityArguments& a, int context) {
  ModelArguments base = a.model;
  if (a.base.model) base.model = *a.base.model;
  base.load.int8_activations = false;
  if (a.base.scheme) base.load.scheme = a.base.scheme;
  if (a.base.dtype) base.load.compute_dtype = a.base.dtype;
  return open_model(base, {.context = context});
}

void require_same_vocabulary(const Engine& model, const Engine& base) {
  if (model.info().vocab_size == base.info().vocab_size && model.tokenize("a") == base.tokenize("a")) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--base-model: expected the tokens of {} ({}), found others ({})", model.info().name,
                          model.info().vocab_size, base.info().vocab_size));
}

std::string with_error(const Mean& mean, double unit) {
  return fmt::format("{:.6f} +/- {:.6f}", mean.value() * unit, mean.error() * unit);
}

std::string text_of(const Mean& loss) {
  const Perplexity found = perplexity(loss);
  return fmt::format("perplexity                {:.4f} +/- {:.4f}\nmean NLL                  {}\n", found.value,
                     found.error, with_error(loss, 1));
}

std::string text_of(const Comparison& comparison) {
  const Perplexity base = perplexity(comparison.base_loss());
  const Perplexity ratio = perplexity(comparison.loss_difference());
  return fmt::format("base perplexity           {:.4f} +/- {:.4f}\n", base.value, base.error) +
         fmt::format("perplexity / base         {:.6f} +/- {:.6f}\n", ratio.value, ratio.error) +
         fmt::format("KL divergence, mean       {}\n", with_error(comparison.divergence(), 1)) +
         fmt::format("KL divergence, median     {:.6f}, 99%: {:.6f}, most: {:.6f}\n",
                     comparison.divergence_quantile(0.5), comparison.divergence_quantile(0.99),
                     comparison.divergence_quantile(1)) +
         fmt::format("same likeliest token, %   {}\n", with_error(comparison.same_likeliest(), 100)) +
         fmt::format("change of probability, %  {}, RMS {:.6f}\n", with_error(comparison.probability_change(), 100),
                     comparison.probability_change().root_mean_square() * 100);
}

Json json_of(const Mean& mean) { return {{"mean", mean.value()}, {"error", mean.error()}}; }

Json json_of(const Comparison& comparison, const ModelInfo& base) {
  const Perplexity ratio = perplexity(comparison.loss_difference());
  Json divergence = json_of(comparison.divergence());
  divergence["median"] = comparison.divergence_quantile(0.5);
  divergence["percentile_99"] = comparison.divergence_quantile(0.99);
  divergence["max"] = comparison.divergence_quantile(1);
  Json change = json_of(comparison.probability_change());
  change["rms"] = comparison.probability_change().root_mean_square();
  return {{"model", model_json(base)},
          {"perplexity", perplexity(comparison.base_loss()).value},
          {"mean_nll", json_of(comparison.base_loss())},
          {"perplexity_ratio", {{"mean", ratio.value}, {"error", ratio.error}}},
          {"kl_divergence", divergence},
          {"same_likeliest", json_of(comparison.same_likeliest())},
          {"probability_change", change}};
}

ExitCode measure(const PerplexityArguments& a) {
  require_text(describe_model(a.model.model, a.model.load), a.file);
  Opened model = open_model(a.model, {});
  const Windows windows(model.engine, a.file, a.windows);
  std::optional<Opened> base;
  std::vector<Session*> sessions{&model.session};
  if (a.base.given()) {
    base = open_base(a, windows.context());
    require_same_vocabulary(model.engine, base->engine);
    sessions.push_back(&base->session);
  }

  Mean loss;
  Comparison comparison;
  {
    ProgressDisplay display("reading", progress_style(ProgressStyle::kLines));
    predict(
        sessions, model.engine.info().vocab_size, windows,
        [&](std::span<const Distribution> by_model, int token) {
          loss.add(-by_model.front().log_probability(token));
          if (base) comparison.add(by_model.back(), by_model.front(), token);
        },
        [&](int done) {
          const Perplexity so_far = perplexity(loss);
          display.update(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(windows.count()),
                         fmt::format("perplexity {:.4f} +/- {:.4f}", so_far.value, so_far.error));
        });
  }

  if (!a.json) {
    print(fmt::format("{}: {}, {}; {} windows of {} tokens every {}, {} predictions\n", model.engine.info().name,
                      to_string(model.engine.info().scheme), to_string(model.engine.info().compute_dtype),
                      windows.count(), windows.size(), windows.stride(), loss.count()));
    print(text_of(loss) + (base ? text_of(comparison) : ""));
    return kSuccess;
  }
  const Perplexity found = perplexity(loss);
  Json document{
      {"perplexity", found.value},   {"perplexity_error", found.error}, {"mean_nll", json_of(loss)},
      {"predictions", loss.count()}, {"windows", windows.count()},      {"window", windows.size()},
      {"stride", windows.stride()},  {"prefix", windows.prefix()},      {"model", model_json(model.engine.info())}};
  if (base) document["base"] = json_of(comparison, base->engine.info());
  print_json(document);
  return kSuccess;
}

}  // namespace

Action declare_perplexity(CLI::App& app) {
  const auto arguments = std::make_shared<PerplexityArguments>();
  declare(app, *arguments);
  return [arguments] { return measure(*arguments); };
}

}  // namespace nibble::cli
