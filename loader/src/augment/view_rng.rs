//! The random numbers of an augmented view.

use headstock_split::KeyedRng;

/// The random numbers of the augmented view `view_index` of the image whose content has the hash `image_hash`.
/// They do not depend on other images, so the order of images and the number of threads do not change the
/// result.
pub(super) fn view_rng(seed: u64, view_index: u64, image_hash: &[u8; 32]) -> KeyedRng {
    KeyedRng::from_state(seed).with_key(&[view_index]).with_bytes(image_hash)
}

/// The random numbers of one augmentation step of a view, such as `policy`. They are independent of those of
/// [`view_rng`] and of other steps, so adding a step does not change the others.
pub(super) fn step_rng(seed: u64, view_index: u64, image_hash: &[u8; 32], step_name: &str) -> KeyedRng {
    view_rng(seed, view_index, image_hash).with_bytes(step_name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_view_and_image() {
        let draw = |seed, view, first| {
            let mut image_hash = [7; 32];
            image_hash[0] = first;
            view_rng(seed, view, &image_hash).next_u64()
        };
        let base = draw(0, 1, 0);
        assert_eq!(base, draw(0, 1, 0));
        assert_ne!(base, draw(1, 1, 0));
        assert_ne!(base, draw(0, 2, 0));
        assert_ne!(base, draw(0, 1, 1));
    }

    #[test]
    fn each_step_name_has_its_own_stream() {
        let names = [
            "",
            "policy",
            "affine",
            "perspective",
            "color_jitter",
            "grayscale",
            "gaussian_blur",
            "gaussian_blue",
        ];
        let first = |step: &str| step_rng(0, 1, &[7; 32], step).next_u64();
        let streams: std::collections::HashSet<u64> = names.into_iter().map(first).collect();
        assert_eq!(streams.len(), names.len());
        assert_eq!(first(""), view_rng(0, 1, &[7; 32]).next_u64());
    }
}
