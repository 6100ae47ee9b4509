//! Each reason for which a layer is not added.

use crate::dispatch::{AnyKernel, KernelSet};
use crate::isa::{Isa, Precision};
use crate::layer::Convolution;
use crate::network::NetworkBuilder;
use crate::tests::{TestRng, epilogue, kernel_configs};

const SCALE: [[f32; 256]; 3] = [[0.0; 256]; 3];

fn layer(inputs: usize, outputs: usize, [kernel, stride, padding]: [usize; 3]) -> Convolution {
    TestRng(1).convolution([inputs, outputs, kernel, stride, padding])
}

/// A builder with a layer of 8 channels after the photo.
fn started() -> (NetworkBuilder, crate::ValueId) {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let image = builder.input();
    let end = epilogue(None, true, Precision::F32);
    let value = builder.add_convolution("first", image, layer(3, 8, [3, 2, 1]), end).unwrap();
    (builder, value)
}

#[test]
fn the_first_layer_takes_three_channels_in_steps_of_two() {
    let mut builder = NetworkBuilder::new(Isa::Portable, SCALE).unwrap();
    let image = builder.input();
    let end = epilogue(None, true, Precision::F32);
    let refused =
        builder.add_convolution("conv1", image, layer(3, 8, [3, 1, 1]), end).unwrap_err().to_string();
    let expected = "failed to add conv1: the first layer takes 3 channels and a stride of 2, not 3 and 1";
    assert_eq!(refused, expected);
    builder.add_convolution("conv1", image, layer(3, 8, [3, 2, 1]), end).unwrap();
}

#[test]
fn sizes_that_no_convolution_has_are_refused() {
    let whole = layer(8, 4, [3, 1, 1]);
    let end = epilogue(None, true, Precision::F32);
    let refused = |layer: Convolution| {
        let (mut builder, value) = started();
        builder.add_convolution("conv", value, layer, end).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(refused(whole.clone()), Ok(()));
    let shape = |weights: usize, biases: usize, outputs: usize| {
        Err(format!(
            "failed to add conv: {weights} weights and {biases} biases are not [{outputs}, 8, 3, 3] and [{outputs}]"
        ))
    };
    assert_eq!(refused(Convolution { bias: vec![0.0; 5], ..whole.clone() }), shape(288, 5, 4));
    assert_eq!(refused(Convolution { weights: vec![0.0; 289], ..whole.clone() }), shape(289, 4, 4));
    let nothing = Convolution { outputs: 0, weights: vec![], bias: vec![], ..whole.clone() };
    assert_eq!(refused(nothing), shape(0, 0, 0));
    let steps = |stride: usize, padding: usize, kernel: usize| {
        Err(format!(
            "failed to add conv: stride {stride} and padding {padding} do not go with a kernel of {kernel}"
        ))
    };
    assert_eq!(refused(Convolution { stride: 0, ..whole.clone() }), steps(0, 1, 3));
    assert_eq!(refused(Convolution { padding: 3, ..whole.clone() }), steps(1, 3, 3));
    assert_eq!(refused(Convolution { padding: 2, ..whole }), Ok(()));
}

#[test]
fn only_a_value_of_the_same_channels_and_precision_is_added() {
    let (mut builder, value) = started();
    let end = |residual| epilogue(Some(residual), true, Precision::F32);
    let wider = builder.add_convolution(
        "wider",
        value,
        layer(8, 16, [1, 1, 0]),
        epilogue(None, true, Precision::F32),
    );
    let wider = wider.unwrap();
    let refused = builder.add_convolution("sum", value, layer(8, 8, [3, 1, 1]), end(wider)).unwrap_err();
    let expected = "failed to add sum: 8 channels in f32 cannot be added to 16 in f32";
    assert_eq!(refused.to_string(), expected);
    builder.add_convolution("sum", value, layer(8, 8, [3, 1, 1]), end(value)).unwrap();

    // Of a network that goes over to `bf16`, on whatever kernels have that.
    let way = kernel_configs().into_iter().find(|way| way.kernels.bf16.is_some()).unwrap();
    let mut builder = NetworkBuilder::with_kernels(way.kernels, Isa::AmxBf16, SCALE);
    let (image, to) = (builder.input(), |residual, precision| epilogue(residual, true, precision));
    let wide = builder.add_convolution("a", image, layer(3, 8, [3, 2, 1]), to(None, Precision::F32)).unwrap();
    let narrow =
        builder.add_convolution("b", wide, layer(8, 8, [1, 1, 0]), to(None, Precision::Bf16)).unwrap();
    let mut refused = |input, residual, precision| {
        let layer = layer(8, 8, [1, 1, 0]);
        builder.add_convolution("c", input, layer, to(residual, precision)).map_err(|error| error.to_string())
    };
    let unlike =
        |from, kept| Err(format!("failed to add c: 8 channels in {from} cannot be added to 8 in {kept}"));
    assert_eq!(refused(narrow, Some(wide), Precision::Bf16), unlike("bf16", "f32"));
    assert_eq!(refused(wide, Some(narrow), Precision::Bf16), unlike("f32", "bf16"));
    let widens = Err("failed to add c: amx-bf16 has no kernel from bf16 to f32".to_owned());
    assert_eq!(refused(narrow, None, Precision::F32), widens);
    assert!(refused(narrow, Some(narrow), Precision::Bf16).is_ok());
    assert_eq!(builder.add_tap().map(|tap| tap.0).unwrap(), 0);
    assert_eq!(builder.build().precision(), Precision::Bf16);
}

#[test]
fn a_maximum_needs_a_layer_before_it_a_step_and_a_window_wider_than_its_margin() {
    let (mut builder, value) = started();
    let image = builder.input();
    for (input, kernel, stride, padding) in
        [(image, 3, 2, 1), (value, 3, 0, 1), (value, 2, 2, 2), (value, 1, 1, 2)]
    {
        let refused = builder.add_max_pool("pool", input, kernel, stride, padding).unwrap_err().to_string();
        let expected = format!(
            "failed to add pool: kernel {kernel}, stride {stride} and padding {padding} do not go together, or not here"
        );
        assert_eq!(refused, expected);
    }
    builder.add_max_pool("pool", value, 2, 1, 1).unwrap();
}

#[test]
fn what_lies_before_a_tap_is_out_of_reach_in_every_way_and_the_tap_itself_is_not() {
    let (mut builder, first) = started();
    let end = |residual| epilogue(residual, true, Precision::F32);
    let second = builder.add_convolution("second", first, layer(8, 8, [1, 1, 0]), end(None)).unwrap();
    builder.add_tap().unwrap();
    let layer = || layer(8, 8, [1, 1, 0]);
    for refused in [
        builder.add_convolution("late", first, layer(), end(None)),
        builder.add_convolution("late", second, layer(), end(Some(first))),
        builder.add_max_pool("late", first, 3, 2, 1),
    ] {
        let refused = refused.unwrap_err().to_string();
        assert_eq!(refused, "failed to add late: it uses a value from before the last tap");
    }
    assert_eq!(builder.add_tap().unwrap_err().to_string(), "failed to add a tap: there is no layer for it");
    builder.add_convolution("third", second, layer(), end(Some(second))).unwrap();
    builder.add_tap().unwrap();
}

/// What comes after the last tap is nothing that anybody could ask for.
#[test]
fn a_network_ends_at_its_last_tap() {
    let (mut builder, first) = started();
    let end = epilogue(None, true, Precision::F32);
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

/// An instruction set has the kernels of its name, where it is present, and none where it is not.
#[test]
fn each_instruction_set_has_its_own_kernels_or_is_refused() {
    for isa in Isa::ALL {
        let kernels = match KernelSet::new(isa) {
            Ok(kernels) => kernels,
            Err(error) => {
                let expected =
                    format!("the instruction set {isa} cannot be used: this machine does not have it");
                assert_eq!(error.to_string(), expected);
                assert!(!isa.is_present());
                continue;
            }
        };
        assert!(isa.is_present());
        let debug = |kernel: AnyKernel| format!("{kernel:?}").split('(').next().unwrap().to_owned();
        let narrow = kernels.bf16.map(|(narrowing, bf16)| [debug(narrowing), debug(bf16)]);
        let (wide, expected) = match isa {
            Isa::Portable => ("PortableF32", None),
            Isa::Avx2 => ("Avx2", None),
            Isa::Avx512 => ("Avx512", None),
            Isa::Avx512Bf16 => ("Avx512", Some(["Avx512Narrowing", "Avx512Bf16"])),
            Isa::AmxBf16 => ("Avx512", Some(["Avx512Narrowing", "AmxBf16"])),
        };
        assert_eq!(debug(kernels.f32), wide, "{isa}");
        assert_eq!(narrow, expected.map(|names| names.map(str::to_owned)), "{isa}");
    }
}

/// The portable kernels and those that imitate `bf16` run everywhere, so that no comparison here is of nothing.
#[test]
fn the_comparisons_run_on_every_instruction_set_that_is_here() {
    let ways = kernel_configs();
    let ran: Vec<String> = ways.iter().map(|way| format!("{:?} {:?}", way.kernels, way.precisions)).collect();
    println!("compared on: {ran:#?}");
    let runs = |isa: Isa| {
        let kernels = format!("{:?}", KernelSet::new(isa).unwrap());
        ways.iter().filter(|way| format!("{:?}", way.kernels) == kernels).count()
    };
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_present()) {
        let bf16 = isa.computes(Precision::Bf16);
        assert_eq!(runs(isa), if bf16 && !cfg!(miri) { 2 } else { 1 }, "{isa}");
    }
    assert_eq!(runs(Isa::Portable), 1);
    assert!(ran.iter().any(|way| way.contains("EmulatedBf16")));
}
