//! The only file of the program that names backends: `--device` picks one at run time.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use mopo_ops::FusedBackend;
use mopo_train::config::MatmulPrecision;

/// A device on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// burn-flex on the CPU.
    Flex,
    /// burn-ndarray on the CPU.
    NdArray,
    /// CUDA device number.
    Cuda(usize),
    /// Adapter number of wgpu: by Metal on Apple's systems, by Vulkan elsewhere.
    Wgpu(usize),
}

impl Device {
    /// Available memory in bytes, if it is this machine's main memory.
    pub(crate) fn memory(self) -> Option<u64> {
        match self {
            Self::Flex | Self::NdArray => mopo_hub::available_memory(),
            Self::Cuda(_) | Self::Wgpu(_) => None,
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "flex" | "cpu" => Ok(Self::Flex),
            "ndarray" => Ok(Self::NdArray),
            other => {
                let (kind, number) = other.split_once(':').unwrap_or((other, "0"));
                match (kind, number.parse()) {
                    ("cuda", Ok(n)) => Ok(Self::Cuda(n)),
                    ("wgpu", Ok(n)) => Ok(Self::Wgpu(n)),
                    _ => {
                        Err("the devices are: flex (the CPU), ndarray, cuda, cuda:N, wgpu, wgpu:N"
                            .into())
                    }
                }
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flex => f.write_str("flex"),
            Self::NdArray => f.write_str("ndarray"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::Wgpu(n) => write!(f, "wgpu:{n}"),
        }
    }
}

/// Work that runs on the chosen backend.
pub(crate) trait Job: Send {
    /// The result.
    type Output: Send;
    /// Runs it. Training wraps `B` in `Autodiff` itself.
    fn run<B: FusedBackend>(self, device: B::Device) -> Result<Self::Output>;
}

/// Runs a job on a device.
///
/// # Errors
/// If the device was not compiled in or does not exist; errors of the job.
pub(crate) fn dispatch<J: Job>(device: Device, job: J) -> Result<J::Output> {
    check(device)?;
    start_threads()?;
    match device {
        #[cfg(feature = "flex")]
        // On a thread of the pool: kernels hand it work hundreds of times per token, and a thread
        // outside would sleep and be woken each time.
        Device::Flex => rayon::scope(|_| job.run::<burn::backend::Flex>(Default::default())),
        #[cfg(feature = "ndarray")]
        Device::NdArray => job.run::<burn::backend::NdArray>(Default::default()),
        #[cfg(feature = "cuda")]
        Device::Cuda(n) => {
            end_with_its_thread(device);
            job.run::<burn::backend::Cuda>(burn::backend::cuda::CudaDevice::new(n))
        }
        #[cfg(feature = "wgpu")]
        Device::Wgpu(n) => {
            end_with_its_thread(device);
            job.run::<burn::backend::Wgpu>(adapters::find(n)?)
        }
        #[allow(unreachable_patterns)] // with all features on
        other => bail!("the device {other} is not compiled in"),
    }
}

/// What chooses in what products are computed: of a run, and of other commands.
pub(crate) const PRECISION_KEY: &str = "model.matmul_precision";
pub(crate) const PRECISION_FLAG: &str = "--matmul-precision";

/// Chooses in what products are computed, for the whole process, as `setting` says.
///
/// # Errors
/// Products in bfloat16 or int8 on another device than flex, or on a processor without instructions for them.
pub(crate) fn set_matmul_precision(
    device: Device,
    precision: MatmulPrecision,
    setting: &str,
) -> Result<()> {
    let remedy = format!("leave out {setting}, or set it to \"f32\"");
    match (device, precision) {
        #[cfg(feature = "flex")]
        (Device::Flex, precision) => {
            let name = precision.name();
            mopo_ops::set_matmul_precision(precision)
                .map_err(|e| anyhow::anyhow!("products in {name} ({setting}): {e}; {remedy}"))?;
        }
        (_, MatmulPrecision::F32) => {}
        (_, other) => bail!(
            "products in {} ({setting}) are for --device flex, not for {device}; {remedy}",
            other.name()
        ),
    }
    Ok(())
}

/// Ends the process when the thread on which burn serves a GPU panics, as it does where a buffer cannot be had: burn itself
/// would go on, and with wrong numbers.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn end_with_its_thread(device: Device) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The names that cubecl gives them, without fusion and with.
        let thread = std::thread::current();
        let name = thread.name().unwrap_or_default();
        if name.starts_with("DSD-") || name.starts_with("DSU-") {
            let why = panic.payload_as_str().and_then(|text| text.lines().next());
            let why = why.unwrap_or("the thread of the device panicked");
            crate::output::errln!(
                "error: --device {device}: {why}; if its memory, or what its driver allows for one tensor, does not \
                 suffice, use smaller batches, a base in nf4 or int8, or --device flex"
            );
            std::process::exit(1);
        }
        before(panic);
    }));
}

/// Starts the pool's threads, unless they run already: where the system has none to give, rayon would panic when it needs
/// them.
pub(crate) fn start_threads() -> Result<()> {
    match rayon::ThreadPoolBuilder::new().build_global() {
        // Without a cause: there is a pool.
        Err(e) if std::error::Error::source(&e).is_some() => bail!(
            "the threads of this process cannot be started ({e}): free memory, raise its limits (`ulimit -u`, \
             `ulimit -v`), or set RAYON_NUM_THREADS=1"
        ),
        _ => Ok(()),
    }
}

/// Checks that a device can be used, before any work.
pub(crate) fn check(device: Device) -> Result<()> {
    let compiled = match device {
        Device::Flex => cfg!(feature = "flex"),
        Device::NdArray => cfg!(feature = "ndarray"),
        Device::Cuda(_) => cfg!(feature = "cuda"),
        Device::Wgpu(_) => cfg!(feature = "wgpu"),
    };
    if !compiled {
        let feature = device.to_string();
        let feature = feature.split(':').next().unwrap_or_default();
        bail!(
            "--device {device}: this program was built without it; rebuild it with \
             `cargo build --release -p mopo-cli --features {feature}`, or use --device flex"
        );
    }
    #[cfg(feature = "cuda")]
    if let Device::Cuda(n) = device {
        let found = cuda_devices()?;
        if n >= found {
            bail!("--device cuda:{n}: this machine has {found} CUDA devices, counted from 0");
        }
    }
    #[cfg(feature = "wgpu")]
    if let Device::Wgpu(n) = device {
        adapters::find(n)?;
    }
    Ok(())
}

/// Counts CUDA devices through the driver only: creating a tensor without one would panic.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
fn cuda_devices() -> Result<usize> {
    use anyhow::Context;
    let remedy = "install NVIDIA's driver, or use --device flex";
    // SAFETY: the driver library's two functions have these signatures in every version of it
    // (CUDA driver API: cuInit, cuDeviceGetCount); loading it has no other effect.
    unsafe {
        let library = ["libcuda.so.1", "libcuda.so", "nvcuda.dll"]
            .into_iter()
            .find_map(|name| libloading::Library::new(name).ok())
            .with_context(|| format!("--device cuda: no CUDA driver found; {remedy}"))?;
        let init: libloading::Symbol<'_, unsafe extern "C" fn(u32) -> i32> =
            library.get(b"cuInit").context("the CUDA driver has no cuInit")?;
        let count: libloading::Symbol<'_, unsafe extern "C" fn(*mut i32) -> i32> =
            library.get(b"cuDeviceGetCount").context("the CUDA driver has no cuDeviceGetCount")?;
        let code = init(0);
        if code != 0 {
            bail!("--device cuda: the CUDA driver failed to start (error {code}); {remedy}");
        }
        let mut n = 0;
        let code = count(&mut n);
        if code != 0 {
            bail!("--device cuda: the CUDA driver cannot count devices (error {code}); {remedy}");
        }
        Ok(n.max(0) as usize)
    }
}

/// Which GPU is number N of wgpu. Asked for first: burn panics where there is none.
#[cfg(feature = "wgpu")]
mod adapters {
    use anyhow::{Result, bail};
    use burn::backend::wgpu::WgpuDevice;
    use burn::backend::wgpu::graphics::{AutoGraphicsApi, GraphicsApi};
    use futures_util::FutureExt;
    use wgpu::{Adapter, Backend, DeviceDescriptor, DeviceType, Instance, InstanceDescriptor};

    const KINDS: [(DeviceType, &str); 4] = [
        (DeviceType::DiscreteGpu, "a GPU"),
        (DeviceType::IntegratedGpu, "a GPU that is part of the processor"),
        (DeviceType::VirtualGpu, "a virtual GPU"),
        (DeviceType::Cpu, "software on the CPU"),
    ];

    /// The adapters that burn can be told to use, with its names for them: GPUs first, software last.
    fn all() -> Vec<(WgpuDevice, Adapter)> {
        let api = AutoGraphicsApi::backend().into();
        let instance = Instance::new(InstanceDescriptor {
            backends: api,
            ..InstanceDescriptor::new_without_display_handle()
        });
        // Only browsers let anybody wait.
        let found = instance.enumerate_adapters(api).now_or_never().unwrap_or_default();
        let mut adapters = vec![];
        for (kind, _) in KINDS {
            let of_kind = found.iter().filter(|adapter| adapter.get_info().device_type == kind);
            adapters.extend(of_kind.enumerate().filter_map(|(i, adapter)| {
                let device = match kind {
                    DeviceType::DiscreteGpu => WgpuDevice::DiscreteGpu(i),
                    DeviceType::IntegratedGpu => WgpuDevice::IntegratedGpu(i),
                    DeviceType::VirtualGpu => WgpuDevice::VirtualGpu(i),
                    // burn can name the first only.
                    _ if i == 0 => WgpuDevice::Cpu,
                    _ => return None,
                };
                Some((device, adapter.clone()))
            }));
        }
        adapters
    }

    /// Number `n` of this machine's adapters.
    ///
    /// # Errors
    /// If there is no such adapter, or its driver refuses it.
    pub(super) fn find(n: usize) -> Result<WgpuDevice> {
        let adapters = all();
        let Some((device, adapter)) = adapters.get(n) else { bail!(absent(n, &adapters)) };
        let wanted = DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
        match adapter.request_device(&wanted).now_or_never() {
            Some(Ok(_)) => Ok(device.clone()),
            Some(Err(e)) => bail!(
                "--device wgpu:{n}: {} cannot be used ({e}); update its driver, or use --device flex",
                adapter.get_info().name
            ),
            None => bail!("--device wgpu:{n}: the driver does not answer; use --device flex"),
        }
    }

    fn absent(n: usize, adapters: &[(WgpuDevice, Adapter)]) -> String {
        if adapters.is_empty() {
            let remedy = match AutoGraphicsApi::backend() {
                Backend::Metal => "it needs an Apple GPU with Metal",
                _ => {
                    "install the Vulkan driver of your GPU (mesa-vulkan-drivers on Debian and Ubuntu for AMD and Intel; \
                     it includes one in software)"
                }
            };
            return format!("--device wgpu:{n}: no adapter found; {remedy}, or use --device flex");
        }
        let list: Vec<String> = adapters
            .iter()
            .enumerate()
            .map(|(i, (_, adapter))| {
                let info = adapter.get_info();
                let kind = KINDS.iter().find(|kind| kind.0 == info.device_type);
                format!("wgpu:{i} is {} ({})", info.name, kind.map_or("", |kind| kind.1))
            })
            .collect();
        format!(
            "--device wgpu:{n}: none of that number here; there is: {}; or use --device flex",
            list.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_shown() {
        for name in ["flex", "ndarray", "cuda:0", "cuda:3", "wgpu:0", "wgpu:1"] {
            assert_eq!(name.parse::<Device>().unwrap().to_string(), name);
        }
        assert_eq!("cpu".parse::<Device>().unwrap(), Device::Flex);
        assert_eq!("wgpu".parse::<Device>().unwrap(), Device::Wgpu(0));
        for name in ["wgpu:", "wgpu:x", "cuda:-1", "flex:1"] {
            assert!(name.parse::<Device>().unwrap_err().contains("wgpu:N"), "{name}");
        }
        assert!("tpu".parse::<Device>().unwrap_err().contains("flex"));
    }

    #[test]
    fn products_in_bfloat16_are_for_flex() {
        for device in [Device::NdArray, Device::Cuda(1), Device::Wgpu(0)] {
            let e = set_matmul_precision(device, MatmulPrecision::Bf16, PRECISION_KEY)
                .unwrap_err()
                .to_string();
            for part in ["model.matmul_precision", "flex", &device.to_string(), "\"f32\""] {
                assert!(e.contains(part), "{part}: {e}");
            }
            set_matmul_precision(device, MatmulPrecision::F32, PRECISION_KEY).unwrap();
        }
    }

    #[test]
    fn what_is_not_compiled_in_is_an_error_with_a_remedy() {
        for (device, compiled) in
            [(Device::Cuda(0), cfg!(feature = "cuda")), (Device::Wgpu(0), cfg!(feature = "wgpu"))]
        {
            let Err(e) = check(device) else { continue };
            let (e, name) = (e.to_string(), device.to_string());
            let feature = format!("--features {}", name.split(':').next().unwrap());
            assert!(compiled || e.contains(&feature), "{e}");
            assert!(e.contains("--device flex"), "{e}");
        }
    }
}
