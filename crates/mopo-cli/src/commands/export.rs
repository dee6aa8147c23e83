//! `mopo export`: one policy in the layout of Hugging Face or as a GGUF file, or all of them in MOPO's own
//! layout (docs/formats.md).

use anyhow::Result;
use mopo_ops::FusedBackend;
use mopo_train::{ExportSource, check_export_place, check_gguf_place};

use crate::args::ExportArgs;
use crate::device::{self, Job, dispatch};
use crate::output::outln;

pub(crate) fn run(args: ExportArgs) -> Result<()> {
    device::check(args.device)?;
    // Fail before any work.
    match args.gguf {
        None => check_export_place(&args.out, args.force)?,
        Some(_) => check_gguf_place(&args.out, args.force)?,
    }
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
        if let Some(kind) = args.gguf {
            let counts = source.export_gguf::<B>(choice, kind, &args.out, args.force, &device)?;
            let counts: Vec<String> =
                counts.into_iter().map(|(name, n)| format!("{n} matrices in {name}")).collect();
            let (what, out) = (source.describe(choice), args.out.display());
            outln!("{what} in {out} ({})", counts.join(", "));
            return Ok(());
        }
        let dtype = source.export::<B>(choice, args.dtype, &args.out, args.force, &device)?;
        outln!("{} in {} ({})", source.describe(choice), args.out.display(), dtype.hub_name());
        Ok(())
    }
}
