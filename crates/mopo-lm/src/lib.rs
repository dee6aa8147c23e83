//! The language models of MOPO: decoders of several families in burn, LoRA adapters, one output head per policy, packed
//! preference pairs, their sequence log-probabilities, generation, and the files of all of them.
//!
//! No text and no tokenizer (token ids only), no loss and no optimiser. Everything is generic over
//! burn's `Backend`; what runs the model needs mopo-ops' `FusedBackend`.
#![doc = include_str!("../README.md")]

mod adapter;
mod classifiers;
mod decoder;
mod engine;
mod error;
mod export;
mod families;
mod generate;
mod gguf;
mod heads;
mod hub_config;
mod layers;
mod lora;
mod merge;
mod packed;
mod peft;
mod phi;
mod policy;
mod quantised;
mod serial;
mod weights;

#[cfg(test)]
mod fixtures;

/// A data type of quantised weights.
pub use mopo_ops::QuantFormat;

/// A data type of weights in files and in memory.
pub use mopo_hub::WeightDtype;

pub use adapter::{BaseShape, PolicyMeta, load_policy, read_policy_meta, save_policy};
pub use classifiers::{
    Bart, BartBlock, BartConfig, BartCross, BartStack, Classifier, ClassifierShape,
    DecoderClassifier, DistilBert, DistilBertBlock, DistilBertConfig, Gpt2, Gpt2Block, Gpt2Config,
    Pooling, TokenRow,
};
pub use decoder::{Architecture, CausalLm, Decoder, DecoderShape, LinearShape};
pub use engine::{Engine, EngineConfig, EngineStats, Event, Request, RequestId, TokenLogProbs};
pub use error::{Error, Result};
pub use export::export_hub;
pub use generate::{
    Decoding, GenerationConfig, HubGeneration, Sampled, generate, generate_with_ends,
    generate_with_row_ids, prompt_row_id,
};
pub use gguf::{GGUF_WEIGHTS, export_gguf, gguf_file};
pub use heads::PolicyHeads;
pub use layers::dense::{Activation, Attention, Dense};
pub use layers::{
    BLOCK_TOKENS, KvCache, LowRankUpdate, NewTokens, Norm, OutputLayer, Projection, Sequence,
    Weight,
};
pub use lora::{LoraAdapter, LoraConfig, LoraLayer, LoraPair, TargetModules};
pub use merge::merge;
pub use packed::{
    PackedBatch, PackedInputs, PackedResponse, response_states, sequence_log_probs,
    sequence_log_probs_by_head, token_log_probs, token_log_probs_at, token_log_probs_by_head,
};
pub use peft::{has_adapter, load_adapter, save_adapter};
pub use phi::{Phi, PhiAttention, PhiConfig, PhiLayer, PhiMlp, PhiRotary, load_phi};
pub use policy::{AdapterSharing, HeadChoice, Mixing, PolicyParams};
pub use quantised::QuantisedWeight;
pub use serial::{SerialDecoder, SerialLayer};
pub use weights::{LoadDtype, LoadOptions};
