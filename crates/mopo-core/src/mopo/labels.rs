//! The indicators of a batch on a device, and which responses share a prompt.

use burn::tensor::{Tensor, TensorData, backend::Backend};

/// The indicators of a batch of responses on a device, with a mask of missing labels.
///
/// ```
/// # type B = mopo_testkit::TestBackend;
/// use mopo_core::ResponseLabels;
///
/// // One pair and two objectives, a row for each response; the second objective has no label. B: a backend.
/// let rows = [vec![Some(1.0), None], vec![Some(0.0), None]];
/// let labels = ResponseLabels::<B>::from_rows(&rows, &Default::default());
/// assert_eq!(labels.indicators.dims(), [1, 2, 2]); // one batch, two responses, two objectives
/// ```
#[derive(Debug, Clone)]
pub struct ResponseLabels<B: Backend> {
    /// `[n_batches, n_responses, n_objectives]`, I in [0, 1]; 0.5 where missing. One batch that all
    /// policies see, or one per policy.
    pub indicators: Tensor<B, 3>,
    /// The same shape: 1 where there is a label, else 0.
    pub present: Tensor<B, 3>,
    /// Which responses share a prompt, if w is normalised by prompt
    /// ([`super::WeightNormalization::Prompt`]).
    pub prompts: Prompts<B>,
}

/// Which responses share a prompt.
#[derive(Debug, Clone)]
pub enum Prompts<B: Backend> {
    /// Not needed: w is normalised over the batch.
    Ignored,
    /// Responses are ordered by prompt, with the same number for each of this many prompts.
    Blocks(usize),
    /// `[n_batches, n_prompts, n_responses]`: 1 where the response belongs to the prompt, else 0.
    Members(Tensor<B, 3>),
}

impl<B: Backend> ResponseLabels<B> {
    /// One batch for all policies, from rows of indicators, one row per response.
    ///
    /// # Panics
    /// If the rows have different lengths or there are none.
    pub fn from_rows(rows: &[Vec<Option<f32>>], device: &B::Device) -> Self {
        let (n, k) = (rows.len(), rows[0].len());
        assert!(
            rows.iter().all(|r| r.len() == k),
            "every response needs one indicator per objective"
        );
        let flat: Vec<Option<f32>> = rows.iter().flatten().cloned().collect();
        Self::from_flat(&flat, [1, n, k], device)
    }

    /// From indicators in the order of `shape`, `[n_batches, n_responses, n_objectives]`.
    ///
    /// # Panics
    /// If their number does not match the shape.
    pub fn from_flat(labels: &[Option<f32>], shape: [usize; 3], device: &B::Device) -> Self {
        assert_eq!(
            labels.len(),
            shape.iter().product::<usize>(),
            "one indicator per place of the shape"
        );
        // A missing label counts as a tie in s, and not at all in v and q̲.
        let indicators: Vec<f32> = labels.iter().map(|i| i.unwrap_or(0.5)).collect();
        let present: Vec<f32> = labels.iter().map(|i| f32::from(u8::from(i.is_some()))).collect();
        Self {
            indicators: Tensor::from_data(TensorData::new(indicators, shape), device),
            present: Tensor::from_data(TensorData::new(present, shape), device),
            prompts: Prompts::Ignored,
        }
    }

    /// Sets the prompt of each response: one number per response of each batch, with prompts
    /// numbered
    /// from 0 within their batch.
    ///
    /// # Panics
    /// If there is not one number per response.
    pub fn with_prompts(mut self, prompts: &[usize], device: &B::Device) -> Self {
        let [batches, n, _] = self.indicators.dims();
        assert_eq!(prompts.len(), batches * n, "one prompt per response");
        let groups = prompts.iter().max().map_or(1, |m| m + 1);
        let mut member = vec![0.0f32; batches * groups * n];
        for (i, &prompt) in prompts.iter().enumerate() {
            member[(i / n * groups + prompt) * n + i % n] = 1.0;
        }
        let member = TensorData::new(member, [batches, groups, n]);
        self.prompts = Prompts::Members(Tensor::from_data(member, device));
        self
    }
}
