//! How long clients wait on both sides of a proxy: who waits for the farther answer waits longer
//! where that takes longer. Two that ask in one rhythm, each for itself, do not.

/// Standard errors of the slope that fit into 1 where the slope tells something.
const ERRORS_MIN: f64 = 5.0;

/// Waits of pairs of exchanges, in milliseconds, as running sums of what they differ by from the
/// first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waits {
    first_ns: Option<[i64; 2]>,
    count: f64,
    near: f64,
    far: f64,
    near_near: f64,
    near_far: f64,
    far_far: f64,
}

impl Waits {
    /// Adds a pair: the wait on the client's side, and the one beyond.
    pub(super) fn add(&mut self, waits_ns: [i64; 2]) {
        let first_ns = *self.first_ns.get_or_insert(waits_ns);
        let [near, far] = [0, 1].map(|it| waits_ns[it].saturating_sub(first_ns[it]) as f64 / 1e6);
        self.count += 1.0;
        self.near += near;
        self.far += far;
        self.near_near += near * near;
        self.near_far += near * far;
        self.far_far += far * far;
    }

    /// Whether those on the client's side do not follow those beyond: the slope of their regression
    /// is nearer to 0 than to 1, where it is known to a fifth.
    pub(super) fn contradict(&self) -> bool {
        let of = |product: f64, a: f64, b: f64| product - a * b / self.count.max(1.0);
        let near = of(self.near_near, self.near, self.near);
        let both = of(self.near_far, self.near, self.far);
        let far = of(self.far_far, self.far, self.far);
        // What is left where the slope is 1: the proxy's own time.
        let own = near - 2.0 * both + far;
        let is_known = self.count * far >= ERRORS_MIN * ERRORS_MIN * own;
        is_known && 2.0 * both < far
    }
}
