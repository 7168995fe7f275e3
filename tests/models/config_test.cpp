#include "models/config.h"

#include <gtest/gtest.h>

#include "nibble/error.h"

namespace nibble {
namespace {

std::string refusal(std::string_view json) {
  try {
    parse_config(json, "config.json");
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Config, HasTransformersDefaultsWhereAFileSaysNothing) {
  const ModelConfig config = parse_config(R"({"model_type": "opt"})", "config.json");
  EXPECT_EQ(config.vocab_size, 50272);
  EXPECT_EQ(config.hidden_size, 768);
  EXPECT_EQ(config.word_embed_proj_dim, 768);
  EXPECT_EQ(config.max_position_embeddings, 2048);
  EXPECT_TRUE(config.do_layer_norm_before);
  EXPECT_TRUE(config.has_final_layer_norm());
  EXPECT_FALSE(config.has_projection());
  EXPECT_FALSE(config.dtype.has_value());
}

TEST(Config, Reads350m) {
  const ModelConfig config = parse_config(R"({"model_type": "opt", "hidden_size": 1024, "word_embed_proj_dim": 512,
      "do_layer_norm_before": false, "num_attention_heads": 16, "torch_dtype": "float16"})",
                                          "config.json");
  EXPECT_TRUE(config.has_projection());
  EXPECT_FALSE(config.has_final_layer_norm());
  EXPECT_EQ(config.head_dim(), 64);
  EXPECT_EQ(config.dtype, DType::kF16);
}

TEST(Config, KnowsOldNamesAndOldFiles) {
  const ModelConfig config = parse_config(
      R"({"architectures": ["OPTForCausalLM"], "d_model": 64, "num_attention_heads": 4, "bias": false, "dtype": "bfloat16",
          "word_embed_proj_dim": null})",
      "config.json");
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_FALSE(config.enable_bias);
  EXPECT_EQ(config.dtype, DType::kBF16);
}

TEST(Config, ReadsWhatBitsandbytesWrites) {
  const auto scheme = [](const std::string& block) {
    return parse_config(R"({"model_type": "opt", "quantization_config": )" + block + "}", "config.json").scheme;
  };
  EXPECT_EQ(scheme(R"({"load_in_8bit": true, "quant_method": "bitsandbytes"})"), Scheme::kInt8);
  EXPECT_EQ(scheme(R"({"load_in_4bit": true})"), Scheme::kFp4);
  EXPECT_EQ(scheme(R"({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": true})"),
            Scheme::kNf4Dq);
}

TEST(Config, RefusesInOneSentenceThatNamesTheKey) {
  EXPECT_EQ(refusal("{"), "config.json: expected valid JSON, found an error at byte 2");
  EXPECT_EQ(refusal("[1]"), "config.json: expected a JSON object, found array");
  EXPECT_EQ(refusal(R"({"model_type": "llama"})"),
            "config.json: model_type 'llama' is not an architecture nibble runs (it runs 'opt')");
  EXPECT_EQ(refusal(R"({"model_type": "opt", "hidden_size": "big"})"),
            "config.json: hidden_size: expected a whole number of at least 1, found \"big\"");
  EXPECT_EQ(refusal(R"({"model_type": "opt", "num_hidden_layers": 0})"),
            "config.json: num_hidden_layers: expected a whole number of at least 1, found 0");
  EXPECT_EQ(refusal(R"({"model_type": "opt", "vocab_size": 99999999999})"),
            "config.json: vocab_size: expected a whole number of at least 1, found 99999999999");
  EXPECT_EQ(refusal(R"({"model_type": "opt", "num_attention_heads": 7})"),
            "config.json: hidden_size 768 is not a multiple of num_attention_heads 7");
  EXPECT_EQ(refusal(R"({"model_type": "opt", "enable_bias": 1})"),
            "config.json: enable_bias: expected true or false, found 1");
  EXPECT_NE(refusal(R"({"model_type": "opt", "activation_function": "tanh"})").find("activation_function 'tanh'"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"model_type": "opt", "quantization_config": {"quant_method": "hqq"}})")
                .find("quantization method 'hqq' is not supported"),
            std::string::npos);
  EXPECT_EQ(refusal(R"({"model_type": "opt", "quantization_config": {"quant_method": "gptq", "bits": 8}})"),
            "config.json: quantization_config of 'gptq': expected bits 4, found 8");
  EXPECT_EQ(refusal(R"({"model_type": "opt", "quantization_config":
                        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}})"),
            "config.json: quantization_config of 'gptq': expected checkpoint_format \"gptq\", found \"gptq_v2\"");
  EXPECT_EQ(refusal(R"({"model_type": "opt", "quantization_config": {"quant_method": "awq", "version": "gemv"}})"),
            "config.json: quantization_config of 'awq': expected version \"gemm\", found \"gemv\"");
  EXPECT_NE(refusal(R"({"model_type": "opt", "quantization_config": {"quant_method": 4}})").find("quant"),
            std::string::npos);
}

TEST(Config, RefusesWhatIsNestedTooDeeplyToPrintOrCopy) {
  const std::string deep = std::string(300'000, '[') + std::string(300'000, ']');
  const std::string sentence = "config.json: expected JSON nested at most 16 deep, found it deeper";
  EXPECT_EQ(refusal(R"({"model_type": "opt", "vocab_size": )" + deep + "}"), sentence);
  EXPECT_EQ(refusal(R"({"model_type": "opt", "quantization_config": {"quant_method": )" + deep + "}}"), sentence);
  EXPECT_THROW(parse_generation_config(R"({"eos_token_id": )" + deep + "}", "g.json"), Error);
}

TEST(Config, OfADirectoryThatCannotBeOpenedIsOneSentence) {
  const auto refusal_of = [](const std::filesystem::path& directory) -> std::string {
    try {
      read_config(directory);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(refusal_of("/no/such/model"), "/no/such/model: no such checkpoint directory");
  EXPECT_EQ(refusal_of("/dev/null/model"), "/dev/null/model: no such checkpoint directory: Not a directory");
  const std::string long_name(300, 'x');
  EXPECT_EQ(refusal_of(long_name), long_name + ": no such checkpoint directory: File name too long");
}

TEST(GenerationConfig, ReadsWhatIsThereAndDefaultsTheRest) {
  const GenerationConfig config =
      parse_generation_config(R"({"do_sample": true, "temperature": 0.7, "eos_token_id": [2, 5]})", "g.json");
  EXPECT_TRUE(config.do_sample);
  EXPECT_FLOAT_EQ(config.temperature, 0.7F);
  EXPECT_EQ(config.top_k, 50);
  EXPECT_EQ(config.eos_token_id, (std::vector<int>{2, 5}));
  EXPECT_THROW(parse_generation_config(R"({"top_p": 3})", "g.json"), Error);
}

TEST(GenerationConfig, RefusesATemperatureThatNoSessionTakes) {
  EXPECT_EQ(parse_generation_config(R"({"temperature": 0})", "g.json").temperature, 0);
  EXPECT_FLOAT_EQ(parse_generation_config(R"({"temperature": 1e-6})", "g.json").temperature, 1e-6F);
  try {
    parse_generation_config(R"({"temperature": 1e-9})", "g.json");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "g.json: temperature: expected 0 or a number from 1e-06 to 1000000.0, found 1e-09");
  }
}

}  // namespace
}  // namespace nibble
