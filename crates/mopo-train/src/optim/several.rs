//! Gradients of several losses of one module, apart.

use burn::module::{AutodiffModule, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use mopo_ops::FusedAutodiffBackend;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::sums::Sums;
use crate::Result;
use crate::communicator::Communicator;

/// Accumulated gradients of several losses of one module: a copy of its parameters for each.
pub(crate) struct SeparateGradients<'a, B: FusedAutodiffBackend, M: AutodiffModule<B>> {
    module: &'a M,
    sums: Vec<Sums<B, M>>,
    communicator: &'a dyn Communicator,
}

impl<'a, B: FusedAutodiffBackend, M: AutodiffModule<B>> SeparateGradients<'a, B, M> {
    pub(crate) fn new(n_losses: usize, module: &'a M, communicator: &'a dyn Communicator) -> Self {
        let sums = (0..n_losses).map(|_| Sums::new(module, communicator)).collect();
        Self { module, sums, communicator }
    }

    /// Adds the gradients of passes `0..n` to those of loss `k`, as
    /// [`Trainer::passes`](super::Trainer::passes) does.
    pub(crate) fn passes<T: Serialize + DeserializeOwned>(
        &mut self,
        k: usize,
        n: usize,
        pass: impl FnMut(usize) -> Result<(Option<Tensor<B, 1>>, T)>,
    ) -> Result<Vec<T>> {
        self.sums[k].passes(self.module, n, self.communicator, pass)
    }

    /// The gradients, one for each loss; those of a loss without a pass are empty.
    pub(crate) fn finish(self) -> Result<Vec<GradientsParams>> {
        let Self { module, sums, communicator } = self;
        sums.into_iter().map(|sums| sums.whole(module, communicator)).collect()
    }
}

/// ⟨g_i, g_j⟩ over all parameters of a module, summed in f64. Empty gradients are 0.
pub(crate) fn gram<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &[GradientsParams],
) -> Vec<Vec<f64>> {
    let n = gradients.len();
    let mut gram = Gram { gradients, products: vec![vec![0.0; n]; n] };
    module.visit(&mut gram);
    gram.products
}

/// Σ_k c_k g_k. Gradients with a factor of 0 are left out.
pub(crate) fn combined<B: FusedAutodiffBackend, M: AutodiffModule<B>>(
    module: &M,
    gradients: &[GradientsParams],
    factors: &[f64],
) -> GradientsParams {
    let mut sum = Combined { gradients, factors, sum: GradientsParams::new() };
    module.visit(&mut sum);
    sum.sum
}

struct Gram<'a> {
    gradients: &'a [GradientsParams],
    products: Vec<Vec<f64>>,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for Gram<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let values = |gradients: &GradientsParams| {
            let found = gradients.get::<B::InnerBackend, D>(param.id)?;
            Some(found.into_data().iter::<f32>().collect::<Vec<f32>>())
        };
        let all: Vec<Option<Vec<f32>>> = self.gradients.iter().map(values).collect();
        for (i, a) in all.iter().enumerate() {
            for (j, b) in all.iter().enumerate().skip(i) {
                let (Some(a), Some(b)) = (a, b) else { continue };
                let product: f64 =
                    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                self.products[i][j] += product;
                if i != j {
                    self.products[j][i] += product;
                }
            }
        }
    }
}

struct Combined<'a> {
    gradients: &'a [GradientsParams],
    factors: &'a [f64],
    sum: GradientsParams,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for Combined<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let used = self.gradients.iter().zip(self.factors).filter(|(_, factor)| **factor != 0.0);
        let terms = used.filter_map(|(gradients, factor)| {
            Some(gradients.get::<B::InnerBackend, D>(param.id)?.mul_scalar(*factor))
        });
        if let Some(sum) = terms.reduce(|a, b| a + b) {
            self.sum.register::<B::InnerBackend, D>(param.id, sum);
        }
    }
}
