//! Precisions and instruction sets.

use headstock_backbone::{Backbone, DeviceChoice, ErrorKind, FeatureLayer, Isa, PixelBatch, Precision};

use crate::formula;
use crate::support::StateDict;

/// The number of images, their height and their width.
const SHAPE: (usize, usize, usize) = (2, 64, 40);

fn pixels(bytes: &[u8]) -> PixelBatch<'_> {
    PixelBatch::new(bytes, SHAPE.0, SHAPE.1, SHAPE.2).unwrap()
}

fn is_bf16(value: f32) -> bool {
    value.to_bits() & 0xffff == 0
}

/// On a CPU without bf16 arithmetic, the error message is tested instead.
// effect: backbone.precision
#[test]
fn bf16_activations_differ_from_f32_by_rounding_errors() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    let exact = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::F32).unwrap();
    let bytes = formula::pixels(SHAPE.0, SHAPE.1, SHAPE.2);
    let activations = |backbone: &Backbone, layer| {
        let nchw = backbone.activations_nchw(pixels(&bytes), layer).unwrap();
        nchw.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    for layer in FeatureLayer::ALL {
        assert!(activations(&exact, layer).iter().any(|value| !is_bf16(*value)), "{layer}");
    }
    let available: Vec<Isa> =
        Isa::ALL.into_iter().filter(|isa| isa.is_present() && isa.computes(Precision::Bf16.into())).collect();
    println!("bf16 on {available:?}");
    if available.is_empty() {
        let error = Backbone::new(&checkpoint, DeviceChoice::Cpu, Precision::Bf16).unwrap_err();
        let expected = "this CPU has no bf16 arithmetic (AVX512-BF16 or AMX-BF16): use the precision f32";
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.kind(), ErrorKind::Config);
    }
    for isa in available {
        let rounded = Backbone::on_cpu(&checkpoint, isa, Precision::Bf16).unwrap();
        assert_eq!(rounded.isa(), isa.as_str());
        assert_eq!(
            activations(&rounded, FeatureLayer::Stem),
            activations(&exact, FeatureLayer::Stem),
            "the stem is computed in f32"
        );
        for layer in [FeatureLayer::Layer1, FeatureLayer::Layer2, FeatureLayer::Layer3, FeatureLayer::Layer4]
        {
            let (ours, theirs) = (activations(&rounded, layer), activations(&exact, layer));
            assert!(ours.iter().all(|value| is_bf16(*value)), "{layer} on {isa}");
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
            let gap =
                norm(&mut ours.iter().zip(&theirs).map(|(a, b)| a - b)) / norm(&mut theirs.iter().copied());
            // The relative error of one rounding is at most 2^-9, and about a third of that on average.
            assert!((5e-4..2e-2).contains(&gap), "{layer} on {isa}: {gap}");
        }
    }
}

#[test]
fn an_explicit_instruction_set_is_used() {
    let checkpoint = StateDict::from_formula("resnet18").without_classifier().to_dir().open().unwrap();
    for isa in Isa::ALL {
        match Backbone::on_cpu(&checkpoint, isa, Precision::F32) {
            Ok(backbone) => {
                assert_eq!(backbone.isa(), isa.as_str());
                assert!(backbone.is_on_cpu() && isa.is_present());
            }
            Err(error) => {
                let expected = format!(
                    "the instruction set {isa} cannot be used: this CPU does not have these instructions; choose \
                     one that this CPU has, such as portable"
                );
                assert_eq!(error.to_string(), expected);
                assert_eq!(error.kind(), ErrorKind::Config);
                assert!(!isa.is_present());
            }
        }
    }
}
