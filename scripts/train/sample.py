"""Sample continuations from a checkpoint with transformers.

    python sample.py --model checkpoint "Once upon a time" "The old house"
"""

import argparse

import torch
from transformers import AutoTokenizer, OPTForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the checkpoint and tokenizer")
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--tokens", type=int, default=120, help="new tokens a prompt")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = OPTForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    for prompt in args.prompts:
        torch.manual_seed(args.seed)
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=0,
            max_new_tokens=args.tokens,
        )
        print(tokenizer.decode(out[0], skip_special_tokens=True), end="\n\n---\n\n")


if __name__ == "__main__":
    main()
