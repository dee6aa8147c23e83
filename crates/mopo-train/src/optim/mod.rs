//! Adam on a module's gradients: accumulation, clipping by global norm, state as bytes.

use burn::module::{AutodiffModule, Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::adaptor::OptimizerAdaptor;
use burn::optim::{
    GradientsAccumulator, GradientsParams, LearningRate, Optimizer, SimpleOptimizer,
};
use burn::record::{BinBytesRecorder, FullPrecisionSettings, Record, Recorder};
use burn::tensor::backend::Backend;
use burn::tensor::{ElementConversion, Tensor};
use mopo_ops::{AdamFactors, FusedAutodiffBackend, FusedBackend, primitive, tensor};

use crate::checkpoint::{Checkpoint, Parts};
use crate::{Error, Result};

/// Parts of a checkpoint.
const POLICY: &str = "policy.bin";
const OPTIMIZER: &str = "optimizer.bin";

type Bytes = BinBytesRecorder<FullPrecisionSettings>;

/// Adam with β (0.9, 0.999), ε 1e-8, no weight decay; one parameter at a time, in place.
#[derive(Debug, Clone, Copy)]
struct Adam;

/// Adam's state of a parameter.
#[derive(Record, Debug, Clone)]
struct AdamState<B: Backend, const D: usize> {
    /// Number of steps so far.
    time: usize,
    first: Tensor<B, D>,
    second: Tensor<B, D>,
}

impl<B: FusedBackend> SimpleOptimizer<B> for Adam {
    type State<const D: usize> = AdamState<B, D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        param: Tensor<B, D>,
        grad: Tensor<B, D>,
        state: Option<AdamState<B, D>>,
    ) -> (Tensor<B, D>, Option<AdamState<B, D>>) {
        let time = state.as_ref().map_or(0, |state| state.time) + 1;
        let moments = state.map(|state| [primitive(state.first), primitive(state.second)]);
        let factors = AdamFactors::new(learning_rate, [0.9, 0.999], 1e-8, time);
        let (param, [first, second]) =
            B::adam_step(primitive(param), primitive(grad), moments, factors);
        (tensor(param), Some(AdamState { time, first: tensor(first), second: tensor(second) }))
    }

    fn to_device<const D: usize>(state: AdamState<B, D>, device: &B::Device) -> AdamState<B, D> {
        let AdamState { time, first, second } = state;
        AdamState { time, first: first.to_device(device), second: second.to_device(device) }
    }
}

/// A module and its optimiser.
pub(crate) struct Trainer<B: FusedAutodiffBackend, M: AutodiffModule<B>> {
    /// Taken out only while the optimiser rebuilds it.
    module: Option<M>,
    optimizer: OptimizerAdaptor<Adam, M, B>,
    accumulator: GradientsAccumulator<M>,
}

impl<B: FusedAutodiffBackend, M: AutodiffModule<B>> Trainer<B, M> {
    pub(crate) fn new(module: M) -> Self {
        Self {
            module: Some(module),
            optimizer: OptimizerAdaptor::from(Adam),
            accumulator: GradientsAccumulator::new(),
        }
    }

    pub(crate) fn module(&self) -> &M {
        self.module.as_ref().expect("put back after every step")
    }

    /// Forgets the moments and the number of steps: the module is trained on as if it were a new one.
    pub(crate) fn reset(&mut self) {
        self.optimizer = OptimizerAdaptor::from(Adam);
        self.accumulator = GradientsAccumulator::new();
    }

    /// Adds the gradients of one pass.
    pub(crate) fn accumulate(&mut self, loss: Tensor<B, 1>) {
        let module = self.module.as_ref().expect("put back after every step");
        let gradients = GradientsParams::from_grads(loss.backward(), module);
        self.accumulator.accumulate(module, gradients);
    }

    /// Applies the accumulated gradients. Returns their norm before clipping; if it is not finite,
    /// the module is unchanged.
    pub(crate) fn step(&mut self, learning_rate: f64, clip: f64) -> f64 {
        let gradients = self.accumulator.grads();
        self.apply(gradients, learning_rate, clip)
    }

    /// The same with these gradients.
    pub(crate) fn apply(
        &mut self,
        mut gradients: GradientsParams,
        learning_rate: f64,
        clip: f64,
    ) -> f64 {
        let module = self.module.take().expect("put back after every step");
        let mut square = SquaredNorm { gradients: &gradients, sum: 0.0 };
        module.visit(&mut square);
        let norm = square.sum.sqrt();
        if !norm.is_finite() {
            self.module = Some(module);
            return norm;
        }
        if clip > 0.0 && norm > clip {
            module.visit(&mut Scale { gradients: &mut gradients, factor: clip / norm });
        }
        self.module = Some(self.optimizer.step(learning_rate, module, gradients));
        norm
    }

    /// Decoupled weight decay: every matrix is multiplied by `1 - amount`; biases and norms are
    /// unchanged.
    pub(crate) fn decay(&mut self, amount: f64) {
        if amount > 0.0 {
            let module = self.module.take().expect("put back after every step");
            self.module = Some(module.map(&mut Decay { factor: 1.0 - amount }));
        }
    }

    /// Which part of the state has a NaN or an infinity, if any, in one pass over all of it.
    pub(crate) fn non_finite(&self) -> Option<&'static str> {
        let mut found = NonFinite::<B, M> { moments: self.optimizer.to_record(), found: None };
        self.module().visit(&mut found);
        found.found
    }

    pub(crate) fn module_bytes(&self) -> Result<Vec<u8>> {
        module_to_bytes::<B, M>(self.module())
    }

    pub(crate) fn optimizer_bytes(&self) -> Result<Vec<u8>> {
        Recorder::<B>::record(&Bytes::default(), self.optimizer.to_record(), ()).map_err(unreadable)
    }

    /// Module and optimiser as parts of a checkpoint.
    pub(crate) fn parts(&self) -> Result<Parts> {
        Ok(Parts::from([
            (POLICY.into(), self.module_bytes()?),
            (OPTIMIZER.into(), self.optimizer_bytes()?),
        ]))
    }

    /// Restores module and optimiser from a checkpoint with [`parts`](Self::parts).
    pub(crate) fn restore_parts(&mut self, c: &Checkpoint, device: &B::Device) -> Result<()> {
        self.restore(c.part(POLICY)?, c.part(OPTIMIZER)?, device)
    }

    /// Restores module and optimiser; parameter ids come from the record, so they match the
    /// moments.
    pub(crate) fn restore(
        &mut self,
        module: &[u8],
        optimizer: &[u8],
        device: &B::Device,
    ) -> Result<()> {
        self.restore_with(optimizer, device, |current| {
            module_from_bytes::<B, M>(current, module, device)
        })
    }

    /// The same with a module that `load` makes of the current one.
    pub(crate) fn restore_with(
        &mut self,
        optimizer: &[u8],
        device: &B::Device,
        load: impl FnOnce(M) -> Result<M>,
    ) -> Result<()> {
        let current = self.module.take().expect("put back after every step");
        self.module = Some(load(current)?);
        let state = Recorder::<B>::load(&Bytes::default(), optimizer.to_vec(), device)
            .map_err(unreadable)?;
        self.optimizer = OptimizerAdaptor::from(Adam).load_record(state);
        Ok(())
    }
}

/// A module's parameters, bit for bit.
pub(crate) fn module_to_bytes<B, M>(module: &M) -> Result<Vec<u8>>
where
    B: Backend,
    M: Module<B>,
{
    Recorder::<B>::record(&Bytes::default(), module.clone().into_record(), ()).map_err(unreadable)
}

/// The inverse, into a module of the same shape.
pub(crate) fn module_from_bytes<B, M>(module: M, bytes: &[u8], device: &B::Device) -> Result<M>
where
    B: Backend,
    M: Module<B>,
{
    let loaded =
        Recorder::<B>::load(&Bytes::default(), bytes.to_vec(), device).map_err(unreadable)?;
    Ok(module.load_record(loaded))
}

pub(crate) fn unreadable(e: burn::record::RecorderError) -> Error {
    Error::Run {
        path: "checkpoint".into(),
        message: format!("a training state cannot be read or written: {e}"),
    }
}

/// Accumulated gradients of several losses of one module, apart: a copy of its parameters for each.
pub(crate) struct SeparateGradients<M> {
    accumulators: Vec<GradientsAccumulator<M>>,
}

impl<M> SeparateGradients<M> {
    pub(crate) fn new(n_losses: usize) -> Self {
        Self { accumulators: (0..n_losses).map(|_| GradientsAccumulator::new()).collect() }
    }

    /// Adds the gradients of one pass to those of loss `k`.
    pub(crate) fn accumulate<B>(&mut self, k: usize, module: &M, loss: Tensor<B, 1>)
    where
        B: FusedAutodiffBackend,
        M: AutodiffModule<B>,
    {
        let gradients = GradientsParams::from_grads(loss.backward(), module);
        self.accumulators[k].accumulate(module, gradients);
    }

    /// The gradients, one for each loss; those of a loss without a pass are empty.
    pub(crate) fn finish(mut self) -> Vec<GradientsParams> {
        self.accumulators.iter_mut().map(GradientsAccumulator::grads).collect()
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

struct Decay {
    factor: f64,
}

impl<B: FusedAutodiffBackend> ModuleMapper<B> for Decay {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if D < 2 || !param.is_require_grad() {
            return param;
        }
        // Outside the graph, as in a step of the optimiser.
        param
            .map(|tensor| Tensor::from_inner(tensor.inner().mul_scalar(self.factor)).require_grad())
    }
}

/// Finds values that are not finite.
struct NonFinite<B: FusedAutodiffBackend, M: AutodiffModule<B>> {
    moments: <OptimizerAdaptor<Adam, M, B> as Optimizer<M, B>>::Record,
    found: Option<&'static str>,
}

impl<B: FusedAutodiffBackend, M: AutodiffModule<B>> ModuleVisitor<B> for NonFinite<B, M> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        // x − x is 0 for finite numbers and NaN otherwise, on every backend.
        let is_finite = |x: Tensor<B::InnerBackend, D>| {
            let sum: f64 = (x.clone() - x).sum().into_scalar().elem();
            sum == 0.0
        };
        if self.found.is_none() && !is_finite(param.val().inner()) {
            self.found = Some("a weight");
        }
        if let Some(moments) = self.moments.remove(&param.id) {
            let AdamState { first, second, .. } = moments.into_state::<D>();
            if self.found.is_none() && !(is_finite(first) && is_finite(second)) {
                self.found = Some("a moment of the optimiser");
            }
        }
    }
}

struct SquaredNorm<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for SquaredNorm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(g) = self.gradients.get::<B::InnerBackend, D>(param.id) {
            self.sum += B::InnerBackend::sum_of_squares(primitive(g));
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl<B: FusedAutodiffBackend> ModuleVisitor<B> for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        if let Some(g) = self.gradients.remove::<B::InnerBackend, D>(param.id) {
            let g: Tensor<B::InnerBackend, D> =
                tensor(B::InnerBackend::scaled(primitive(g), self.factor));
            self.gradients.register::<B::InnerBackend, D>(param.id, g);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use mopo_testkit::{TestAutodiffBackend as B, TestBackend};

    use super::*;

    fn trainer() -> Trainer<B, Linear<B>> {
        Trainer::new(LinearConfig::new(3, 2).init::<B>(&Default::default()))
    }

    /// One step along the gradient of that sum.
    fn step(trainer: &mut Trainer<B, Linear<B>>, scale: f64, learning_rate: f64) -> f64 {
        let x = Tensor::<B, 2>::ones([1, 3], &Default::default());
        let loss = trainer.module().forward(x).sum().mul_scalar(scale);
        trainer.accumulate(loss);
        trainer.step(learning_rate, 0.0)
    }

    #[test]
    fn weights_that_are_not_finite_are_found_and_such_steps_are_not_made() {
        let mut sound = trainer();
        assert_eq!(sound.non_finite(), None);
        step(&mut sound, 1.0, 1e20);
        assert_eq!(sound.non_finite(), None, "1e20 is a number");
        let mut wild = trainer();
        step(&mut wild, 1.0, 1e39);
        assert_eq!(wild.non_finite(), Some("a weight"));
        // A gradient out of f32's range is not applied.
        let mut steep = trainer();
        assert!(!step(&mut steep, 1e39, 1e-3).is_finite());
        assert_eq!(steep.non_finite(), None);
    }

    #[test]
    fn gradients_kept_apart_have_their_products_and_add_up() {
        let trainer = trainer();
        let module = trainer.module();
        let loss = |x: [f32; 3]| {
            let x = Tensor::<B, 1>::from_floats(x, &Default::default());
            module.forward(x.unsqueeze::<2>()).sum()
        };
        let mut apart = SeparateGradients::new(3);
        apart.accumulate(0, module, loss([1.0, 2.0, 0.0]));
        apart.accumulate(0, module, loss([0.0, 0.0, 3.0]));
        apart.accumulate(1, module, loss([-1.0, 0.0, 1.0]));
        let gradients = apart.finish();
        // The gradients of the weight are the inputs, once for each of two outputs, and those of the bias are
        // the numbers of passes.
        let found = gram(module, &gradients);
        let expected = [[36.0, 8.0, 0.0], [8.0, 6.0, 0.0], [0.0; 3]];
        assert_eq!(found, expected.map(Vec::from));
        let sum = combined(module, &gradients, &[0.5, 2.0, 7.0]);
        let of = |param: &Param<Tensor<B, 2>>| sum.get::<TestBackend, 2>(param.id).unwrap();
        let weight: Vec<f32> = of(&module.weight).into_data().iter().collect();
        assert_eq!(weight, [-1.5, -1.5, 1.0, 1.0, 3.5, 3.5]);
    }
}
