use crate::cell::Cell; use crate::kernels::*; use crate::product::*; use crate::tile::*; use std::marker::PhantomData; use std::time::Instant;
pub fn run() {
    for (m, k, n, raw) in [(14*4,256,64,false),(3136,64,64,false),(3136,64,256,false),(3136,256,64,false),(3136,256,128,false),(784,128,512,false),(784,512,128,false),(784,512,256,false),(784,256,1024,false),(784,1024,256,false),(392,512,2048,false),(392,2048,512,false),(49,64,64,true),(49,128,128,true),(64,256,256,true),(32,512,512,true)] {
        println!("m {m} k {k} n {n}");
        #[cfg(target_arch="x86_64")] { one("avx512", Avx512::new().unwrap(), m,k,n,raw,288.); one("bf16", Avx512Bf16::new().unwrap(), m,k,n,raw,576.); one("avx2", Avx2::new().unwrap(), m,k,n,raw,144.); }
    }
}
fn one<K: Kernel>(name:&str, kernel: K, m: usize, k: usize, n: usize, raw: bool, peak: f64) {
    let ch = 16*K::PARTS; let steps=16; let blocks = k/ch; let mblock = m+1;
    let reps = if raw {36} else {1};
    let a = Cell::zeros(blocks*mblock*reps+64);
    let w = Cell::zeros((k/K::PARTS)*(n/16)*reps);
    let ob = if raw { n/16 } else { n/ch };
    let mut o = Cell::zeros(ob*mblock*reps);
    let bias = vec![0f32; n];
    let offsets: Vec<usize> = (0..blocks).map(|b| b*mblock*64).collect();
    let mut best = f64::MAX;
    let iters = (2e8/((m*k*n*reps) as f64)).max(1.0) as usize;
    for _ in 0..12 {
        let t = Instant::now();
        for _ in 0..iters { for x in 0..reps {
            kernel.vectorize(Product::<Cells> { activations: unsafe{a.as_ptr().add(x*blocks*mblock)}.cast(), offsets: &offsets, steps, weights: unsafe{w.as_ptr().add(x*(k/K::PARTS)*(n/16))}, panels: n/16/K::VECTORS,
                runs: Runs{count:1,length:m,from:0,to:0}, output: Output{cells: unsafe{o.as_mut_ptr().add(x*ob*mblock)}, block: mblock, finish: if raw {Finish::Raw} else {Finish::Add{bias: bias.as_ptr(), residual: None, floor: 0.0}}}, stride: PhantomData });
        }}
        best = best.min(t.elapsed().as_secs_f64()/iters as f64);
    }
    let g = 2.0*(m*k*n*reps) as f64/best/1e9;
    println!("   {name:8} {:8.1} us {g:6.0} GFLOP/s {:4.0}%", best*1e6, g/peak*100.);
}
