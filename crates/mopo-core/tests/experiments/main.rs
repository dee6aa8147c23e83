//! The synthetic experiments with small settings: what their pages claim.

mod constraints;
mod initialisation;
mod methods;
mod sensitivity;

fn device() -> <mopo_testkit::TestBackend as burn::tensor::backend::BackendTypes>::Device {
    Default::default()
}
