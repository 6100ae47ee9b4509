//! Rejection of invalid layers.

use crate::dispatch::{AnyKernel, KernelSet};
use crate::isa::{DType, Isa};
use crate::layer::Convolution;
use crate::network::NetworkBuilder;
use crate::tests::{TestRng, epilogue, kernel_configs};

const SCALE: [[f32; 256]; 3] = [[0.0; 256]; 3];

fn layer(inputs: usize, outputs: usize, [kernel, stride, padding]: [usize; 3]) -> Convolution {
    TestRng(1).convolution([inputs, outputs, kernel, stride, padding])
}

/// A builder with a first layer of 8 channels.
fn builder_with_first_layer() -> (NetworkBuilder, crate::ValueId) {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let image = builder.input();
    let end = epilogue(None, true, DType::F32);
    let value = builder.add_convolution("first", image, layer(3, 8, [3, 2, 1]), end).unwrap();
    (builder, value)
}

#[test]
fn the_first_layer_has_3_channels_and_stride_2() {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let image = builder.input();
    let end = epilogue(None, true, DType::F32);
    let rejected =
        builder.add_convolution("conv1", image, layer(3, 8, [3, 1, 1]), end).unwrap_err().to_string();
    let expected = "failed to add conv1 to the network: the first layer must have 3 input channels and \
                    stride 2, got 3 input channels and stride 1";
    assert_eq!(rejected, expected);
    builder.add_convolution("conv1", image, layer(3, 8, [3, 2, 1]), end).unwrap();
}

#[test]
fn convolutions_with_invalid_sizes_are_rejected() {
    let valid = layer(8, 4, [3, 1, 1]);
    let end = epilogue(None, true, DType::F32);
    let rejected = |layer: Convolution| {
        let (mut builder, value) = builder_with_first_layer();
        builder.add_convolution("conv", value, layer, end).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(rejected(valid.clone()), Ok(()));
    let invalid_lengths = |weights: usize, bias: usize, outputs: usize| {
        Err(format!(
            "failed to add conv to the network: expected weights [{outputs}, 8, 3, 3] and bias [{outputs}], \
             got {weights} and {bias} values"
        ))
    };
    assert_eq!(rejected(Convolution { bias: vec![0.0; 5], ..valid.clone() }), invalid_lengths(288, 5, 4));
    assert_eq!(
        rejected(Convolution { weights: vec![0.0; 289], ..valid.clone() }),
        invalid_lengths(289, 4, 4)
    );
    let empty = Convolution { outputs: 0, weights: vec![], bias: vec![], ..valid.clone() };
    assert_eq!(rejected(empty), invalid_lengths(0, 0, 0));
    let invalid_stride_or_padding = |stride: usize, padding: usize| {
        Err(format!(
            "failed to add conv to the network: expected a positive stride and a padding below the kernel \
             size 3, got stride {stride} and padding {padding}"
        ))
    };
    assert_eq!(rejected(Convolution { stride: 0, ..valid.clone() }), invalid_stride_or_padding(0, 1));
    assert_eq!(rejected(Convolution { padding: 3, ..valid.clone() }), invalid_stride_or_padding(1, 3));
    assert_eq!(rejected(Convolution { padding: 2, ..valid }), Ok(()));
}

#[test]
fn a_residual_needs_the_same_channels_and_precision() {
    let (mut builder, value) = builder_with_first_layer();
    let end = |residual| epilogue(Some(residual), true, DType::F32);
    let wider =
        builder.add_convolution("wider", value, layer(8, 16, [1, 1, 0]), epilogue(None, true, DType::F32));
    let wider = wider.unwrap();
    let rejected = builder.add_convolution("sum", value, layer(8, 8, [3, 1, 1]), end(wider)).unwrap_err();
    let expected = "failed to add sum to the network: expected a residual of 8 channels in f32, got 16 \
                    channels in f32";
    assert_eq!(rejected.to_string(), expected);
    builder.add_convolution("sum", value, layer(8, 8, [3, 1, 1]), end(value)).unwrap();

    // In a network that switches to `bf16`, on any kernels that have it.
    let config = kernel_configs().into_iter().find(|config| config.kernels.bf16.is_some()).unwrap();
    let mut builder = NetworkBuilder::with_kernels(config.kernels, Isa::AmxBf16, SCALE);
    let (image, end) = (builder.input(), |residual, precision| epilogue(residual, true, precision));
    let f32 = builder.add_convolution("a", image, layer(3, 8, [3, 2, 1]), end(None, DType::F32)).unwrap();
    let bf16 = builder.add_convolution("b", f32, layer(8, 8, [1, 1, 0]), end(None, DType::Bf16)).unwrap();
    let mut rejected = |input, residual, precision| {
        let layer = layer(8, 8, [1, 1, 0]);
        builder
            .add_convolution("c", input, layer, end(residual, precision))
            .map_err(|error| error.to_string())
    };
    let mismatch = |residual, expected| {
        Err(format!(
            "failed to add c to the network: expected a residual of 8 channels in {expected}, got 8 channels \
             in {residual}"
        ))
    };
    assert_eq!(rejected(bf16, Some(f32), DType::Bf16), mismatch("f32", "bf16"));
    assert_eq!(rejected(f32, Some(bf16), DType::Bf16), mismatch("bf16", "f32"));
    let no_kernel = "failed to add c to the network: the instruction set amx-bf16 has no kernel that reads \
                     bf16 and writes f32";
    let no_kernel = Err(no_kernel.to_owned());
    assert_eq!(rejected(bf16, None, DType::F32), no_kernel);
    assert!(rejected(bf16, Some(bf16), DType::Bf16).is_ok());
    assert_eq!(builder.add_tap().map(|tap| tap.0).unwrap(), 0);
    assert_eq!(builder.build().precision(), DType::Bf16);
}

#[test]
fn max_pools_with_invalid_arguments_are_rejected() {
    let (mut builder, value) = builder_with_first_layer();
    let image = builder.input();
    for (input, kernel, stride, padding) in
        [(image, 3, 2, 1), (value, 3, 0, 1), (value, 2, 2, 2), (value, 1, 1, 2)]
    {
        let rejected = builder.add_max_pool("pool", input, kernel, stride, padding).unwrap_err().to_string();
        let expected = format!(
            "failed to add pool to the network: a max pool needs a layer before it, a positive stride and a \
             padding below the kernel size, got kernel size {kernel}, stride {stride} and padding {padding}"
        );
        assert_eq!(rejected, expected);
    }
    builder.add_max_pool("pool", value, 2, 1, 1).unwrap();
}

#[test]
fn values_from_before_the_last_tap_are_rejected() {
    let (mut builder, first) = builder_with_first_layer();
    let end = |residual| epilogue(residual, true, DType::F32);
    let second = builder.add_convolution("second", first, layer(8, 8, [1, 1, 0]), end(None)).unwrap();
    builder.add_tap().unwrap();
    let layer = || layer(8, 8, [1, 1, 0]);
    for rejected in [
        builder.add_convolution("late", first, layer(), end(None)),
        builder.add_convolution("late", second, layer(), end(Some(first))),
        builder.add_max_pool("late", first, 3, 2, 1),
    ] {
        let rejected = rejected.unwrap_err().to_string();
        let expected = "failed to add late to the network: the layer uses a value from before the last tap";
        assert_eq!(rejected, expected);
    }
    let no_layer = builder.add_tap().unwrap_err().to_string();
    assert_eq!(no_layer, "failed to add a tap to the network: there is no layer since the last tap");
    builder.add_convolution("third", second, layer(), end(Some(second))).unwrap();
    builder.add_tap().unwrap();
}

/// The output of later layers cannot be requested.
#[test]
fn a_network_ends_at_its_last_tap() {
    let (mut builder, first) = builder_with_first_layer();
    let end = epilogue(None, true, DType::F32);
    builder.add_convolution("second", first, layer(8, 12, [1, 1, 0]), end).unwrap();
    let tap = builder.add_tap().unwrap();
    let last = builder.add_max_pool("unused", first, 3, 2, 1);
    assert!(last.is_err());
    let second = crate::ValueId(2);
    builder.add_convolution("unused", second, layer(12, 5, [1, 1, 0]), end).unwrap();
    let network = builder.build();
    assert_eq!((network.channels(tap), network.isa()), (12, Isa::Portable));
    let expected = r#"Network { isa: Portable, precision: F32, nodes: ["first", "second"] }"#;
    assert_eq!(format!("{network:?}"), expected);
    assert!(NetworkBuilder::new(Isa::Portable, SCALE).unwrap().add_tap().is_err());
}

/// An instruction set uses the kernels of its name if it is present, and is rejected if not.
#[test]
fn each_instruction_set_has_its_own_kernels_or_is_rejected() {
    for isa in Isa::ALL {
        let kernels = match KernelSet::new(isa) {
            Ok(kernels) => kernels,
            Err(error) => {
                let expected = format!(
                    "the instruction set {isa} cannot be used: this CPU does not have these instructions; \
                     choose one that this CPU has, such as portable"
                );
                assert_eq!(error.to_string(), expected);
                assert!(!isa.is_present());
                continue;
            }
        };
        assert!(isa.is_present());
        let debug = |kernel: AnyKernel| format!("{kernel:?}").split('(').next().unwrap().to_owned();
        let bf16 = kernels.bf16.map(|(narrowing, bf16)| [debug(narrowing), debug(bf16)]);
        let (expected_f32, expected_bf16) = match isa {
            Isa::Portable => ("PortableF32", None),
            Isa::Avx2 => ("Avx2", None),
            Isa::Avx512 => ("Avx512", None),
            Isa::Avx512Bf16 => ("Avx512", Some(["Avx512Narrowing", "Avx512Bf16"])),
            Isa::AmxBf16 => ("Avx512", Some(["Avx512Narrowing", "AmxBf16"])),
        };
        assert_eq!(debug(kernels.f32), expected_f32, "{isa}");
        assert_eq!(bf16, expected_bf16.map(|names| names.map(str::to_owned)), "{isa}");
    }
}

/// The portable and the emulated `bf16` kernels run everywhere, so no test passes without a comparison.
#[test]
fn the_comparisons_run_on_every_instruction_set_that_is_present() {
    let configs = kernel_configs();
    let names = configs.iter().map(|config| format!("{:?} {:?}", config.kernels, config.precisions));
    let names: Vec<String> = names.collect();
    println!("compared on: {names:#?}");
    let runs = |isa: Isa| {
        let kernels = format!("{:?}", KernelSet::new(isa).unwrap());
        configs.iter().filter(|config| format!("{:?}", config.kernels) == kernels).count()
    };
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_present()) {
        let bf16 = isa.computes(DType::Bf16);
        assert_eq!(runs(isa), if bf16 && !cfg!(miri) { 2 } else { 1 }, "{isa}");
    }
    assert_eq!(runs(Isa::Portable), 1);
    assert!(names.iter().any(|name| name.contains("EmulatedBf16")));
}
