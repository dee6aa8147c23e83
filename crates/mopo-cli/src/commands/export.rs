//! `mopo export`: one policy in the layout of Hugging Face, or all of them in MOPO's own
//! (docs/formats.md).

use anyhow::Result;
use mopo_ops::FusedBackend;
use mopo_train::{ExportSource, check_export_place};

use crate::args::ExportArgs;
use crate::device::{self, Job, dispatch};
use crate::output::outln;

pub(crate) fn run(args: ExportArgs) -> Result<()> {
    device::check(args.device)?;
    // Fail before any work.
    check_export_place(&args.out, args.force)?;
    dispatch(args.device, Export(args))
}

struct Export(ExportArgs);

impl Job for Export {
    type Output = ();

    fn run<B: FusedBackend>(self, device: B::Device) -> Result<()> {
        let args = self.0;
        let dir = super::models::given(&args.source, &args.model, &args.revision)?;
        let source = ExportSource::open(&dir)?;
        let choice = source.choose(args.policy.as_deref())?;
        let dtype = source.export::<B>(choice, args.dtype, &args.out, args.force, &device)?;
        outln!("{} in {} ({})", source.describe(choice), args.out.display(), dtype.hub_name());
        Ok(())
    }
}
