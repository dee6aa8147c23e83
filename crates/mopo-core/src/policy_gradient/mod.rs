//! Policy gradients on sampled answers: PPO and GRPO (docs/methods/ppo.md, docs/methods/grpo.md).
//!
//! An answer is a list of actions, its tokens. What is computed once per sampled answer works on `f64`
//! slices: [`token_rewards`], [`gae`], [`whiten`], [`group_normalized`], and the [`AdaptiveKl`]
//! controller. The losses are generic over burn's backend and differentiable in the policy's
//! log-probabilities and values: [`clipped_surrogate`], [`clipped_value_loss`], [`k3_penalty`].

mod advantages;
mod kl;
mod losses;

pub use advantages::{gae, group_normalized, whiten};
pub use kl::{AdaptiveKl, token_rewards};
pub use losses::{MAX_LOG_RATIO, clipped_surrogate, clipped_value_loss, is_clipped, k3_penalty};
