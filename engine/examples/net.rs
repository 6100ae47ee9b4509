//! tmp
use headstock_engine::*;
use std::sync::Arc;
use std::time::Instant;
fn conv(i: usize, o: usize, k: usize, s: usize, seed: &mut u64) -> Convolution {
    let n = o * i * k * k;
    let scale = (2.0 / (i * k * k) as f32).sqrt();
    let mut r = || {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((*seed >> 40) as f32 / 16777216.0 - 0.5) * 2.0
    };
    Convolution {
        inputs: i,
        outputs: o,
        kernel: k,
        stride: s,
        padding: k / 2,
        weights: (0..n).map(|_| r() * scale).collect(),
        bias: (0..o).map(|_| r() * 0.1).collect(),
    }
}
fn net(isa: Isa, p: Precision) -> (Network, Vec<Tap>) {
    let norm = [0, 1, 2].map(|_| std::array::from_fn(|v| v as f32 / 255.0));
    let mut seed = 1;
    let mut kept = Precision::F32;
    let mut b = Builder::new(isa, norm).unwrap();
    let x = b
        .convolution(
            "conv1",
            b.image(),
            conv(3, 64, 7, 2, &mut seed),
            Epilogue { residual: None, relu: true, precision: kept },
        )
        .unwrap();
    let mut x = b.max_pool("maxpool", x, 3, 2, 1).unwrap();
    let mut taps = vec![b.tap().unwrap()];
    let mut c = 64;
    for (st, (w, d)) in [(64, 3), (128, 4), (256, 6), (512, 3)].into_iter().enumerate() {
        for i in 0..d {
            let s = if st > 0 && i == 0 { 2 } else { 1 };
            let n = format!("layer{}.{i}", st + 1);
            let around = if i == 0 {
                let mut cc = conv(c, w * 4, 1, s, &mut seed);
                cc.padding = 0;
                b.convolution(
                    &format!("{n}.ds"),
                    x,
                    cc,
                    Epilogue { residual: None, relu: false, precision: kept },
                )
                .unwrap()
            } else {
                x
            };
            let y = b
                .convolution(
                    &format!("{n}.conv1"),
                    x,
                    conv(c, w, 1, 1, &mut seed),
                    Epilogue { residual: None, relu: true, precision: kept },
                )
                .unwrap();
            let y = b
                .convolution(
                    &format!("{n}.conv2"),
                    y,
                    conv(w, w, 3, s, &mut seed),
                    Epilogue { residual: None, relu: true, precision: kept },
                )
                .unwrap();
            let mut c3 = conv(w, w * 4, 1, 1, &mut seed);
            for v in &mut c3.weights {
                *v *= 0.2
            }
            x = b
                .convolution(
                    &format!("{n}.conv3"),
                    y,
                    c3,
                    Epilogue {
                        residual: Some(around),
                        relu: true,
                        precision: {
                            kept = p;
                            p
                        },
                    },
                )
                .unwrap();
            c = w * 4;
        }
        taps.push(b.tap().unwrap());
    }
    (b.build(), taps)
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let p = if a[1] == "bf16" { Precision::Bf16 } else { Precision::F32 };
    let threads: usize = a[2].parse().unwrap();
    let batch: usize = a[3].parse().unwrap();
    let layers = a.len() > 4;
    let isa = Isa::choose(p).unwrap();
    if layers {
        println!("peak {:.0}", peak(isa, p).unwrap());
    }
    let t = Instant::now();
    let (n, taps) = net(isa, p);
    let n = Arc::new(n);
    println!("build {:?}", t.elapsed());
    let mut s = Session::new(n.clone(), threads).unwrap();
    let px: Vec<u8> =
        (0..batch * 224 * 224 * 3).map(|i: usize| (i.wrapping_mul(2654435761) >> 13) as u8).collect();
    let mut out = vec![0f32; batch * 2048];
    let ph = Photos { values: Values::U8(&px), count: batch, height: 224, width: 224 };
    s.run(ph, taps[4], Form::Pooled, &mut out).unwrap();
    if layers {
        s.time_layers(true);
    }
    let mut best = f64::MAX;
    let mut k = 0;
    let t0 = Instant::now();
    let mut all = vec![];
    while t0.elapsed().as_secs_f64() < 3.0 {
        let t = Instant::now();
        s.run(ph, taps[4], Form::Pooled, &mut out).unwrap();
        let e = t.elapsed().as_secs_f64();
        best = best.min(e);
        all.push(e);
        k += 1;
    }
    all.sort_by(f64::total_cmp);
    println!(
        "{isa} threads {threads} batch {batch}: median {:.1} best {:.1} img/s ({:.2} ms/photo/thread) {}",
        batch as f64 / all[all.len() / 2],
        batch as f64 / best,
        all[all.len() / 2] * 1e3 / batch as f64 * threads as f64,
        out[5]
    );
    if layers {
        let peak = if p == Precision::F32 { 288. } else { 576. };
        let mut tot = 0.;
        for l in s.layer_times() {
            let ms = l.time.as_secs_f64() * 1e3 / (k * batch) as f64;
            tot += ms;
            let g = 2. * l.products as f64 / ms / 1e6;
            println!(
                "{:16} {:9} {:?} {:7.3} ms {:6.0} GFLOP/s {:4.0}%",
                l.name,
                format!("{:?}", l.method.map(|m| format!("{m:?}")).unwrap_or_default()),
                l.size,
                ms,
                g,
                g / peak * 100.
            );
        }
        println!("total {tot:.2}");
    }
}
