//! The synthetic experiments of the paper, and one of all methods, each a function from settings to rows. Figures and files
//! are made elsewhere.

mod constraints;
mod fronts;
mod initialisation;
mod methods;
mod sensitivity;
mod structures;

pub use constraints::{ConstraintRow, ConstraintSettings, ball_name, constraints};
pub use fronts::{FrontMethod, FrontRow, FrontSettings, ShareRow, fronts, shares};
pub use initialisation::{
    Initialisation, InitialisationSettings, StartRow, VectorRow, initialisation,
};
pub use methods::{
    METHODS, Mean, MethodResults, MethodRow, MethodSettings, MethodShare, ThresholdRow, methods,
};
pub use sensitivity::{SensitivityRow, SensitivitySettings, sensitivity};
pub use structures::{StructureRow, StructureSettings, structures};
