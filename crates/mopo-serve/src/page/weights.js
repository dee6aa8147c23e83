// Preference weights: arithmetic on the simplex, without the page.

// The weights with the k-th set to `value`; the others keep their proportions and take the rest.
export function withOne(weights, k, value) {
  if (weights.length === 1) return [1];
  const own = Math.min(1, Math.max(0, value));
  const others = weights.reduce((sum, w, i) => (i === k ? sum : sum + w), 0);
  return weights.map((w, i) => {
    if (i === k) return own;
    return others > 1e-9 ? (w / others) * (1 - own) : (1 - own) / (weights.length - 1);
  });
}

// The nearest weights without negative ones, with the sum 1.
export function onSimplex(weights) {
  const kept = weights.map((w) => Math.max(0, Number.isFinite(w) ? w : 0));
  const sum = kept.reduce((a, b) => a + b, 0);
  return kept.map((w) => (sum > 0 ? w / sum : 1 / kept.length));
}

export function equal(n) {
  return Array(n).fill(1 / n);
}

// For a request: rounding must not move the sum away from 1, so the server divides by it.
export function asBody(weights, names) {
  return Object.fromEntries(names.map((name, i) => [name, Number(weights[i].toFixed(4))]));
}

export function percent(weight) {
  return `${Math.round(weight * 100)} %`;
}

// Corners of the triangle: the first at the top, then left and right.
export const CORNERS = [[110, 26], [22, 172], [198, 172]];

export function place(weights) {
  return [0, 1].map((axis) => CORNERS.reduce((sum, corner, i) => sum + corner[axis] * weights[i], 0));
}

export function weightsAt(x, y) {
  const [[ax, ay], [bx, by], [cx, cy]] = CORNERS;
  const det = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy);
  const a = ((by - cy) * (x - cx) + (cx - bx) * (y - cy)) / det;
  const b = ((cy - ay) * (x - cx) + (ax - cx) * (y - cy)) / det;
  return onSimplex([a, b, 1 - a - b]);
}

// The point of weights between evaluated ones: linear within the cells of the grid of weights that were evaluated.
// Where that grid is not known or has gaps, near points count by their distance.
export function interpolate(points, steps, weights) {
  const known = points.filter((point) => point.weights);
  if (known.length === 0) return null;
  const parts = (steps && cell(known, steps, weights)) || near(known, weights);
  const axes = known[0].means.length;
  return Array.from({ length: axes }, (_, j) => parts.reduce((sum, [point, share]) => sum + share * point.means[j], 0));
}

// The corners of the cell around weights with their shares, by Kuhn's triangulation of the sums of leading weights.
function cell(known, steps, weights) {
  const n = weights.length;
  if (n === 1) return [[known[0], 1]];
  const key = (multiples) => multiples.join(",");
  const grid = new Map(known.map((point) => [key(point.weights.map((w) => Math.round(w * steps))), point]));
  let sum = 0;
  const sums = weights.slice(0, -1).map((w) => (sum += w) * steps);
  const base = sums.map((x) => Math.min(steps, Math.floor(x + 1e-9)));
  const rest = sums.map((x, i) => Math.max(0, x - base[i]));
  const order = rest.map((_, i) => i).sort((i, j) => rest[j] - rest[i] || j - i);
  const shares = [1 - rest[order[0]], ...order.map((i, k) => rest[i] - (k + 1 < order.length ? rest[order[k + 1]] : 0))];
  const parts = [];
  for (let k = 0; k <= order.length; k++) {
    if (k > 0) base[order[k - 1]] += 1;
    if (shares[k] < 1e-9) continue;
    const multiples = [...base, steps].map((c, i) => c - (i > 0 ? base[i - 1] : 0));
    const point = grid.get(key(multiples));
    if (!point) return null;
    parts.push([point, shares[k]]);
  }
  return parts;
}

function near(known, weights) {
  const squares = known.map((point) => point.weights.reduce((sum, w, i) => sum + (w - weights[i]) ** 2, 0));
  const exact = squares.findIndex((square) => square < 1e-9);
  if (exact >= 0) return [[known[exact], 1]];
  const total = squares.reduce((sum, square) => sum + 1 / square, 0);
  return known.map((point, i) => [point, 1 / squares[i] / total]);
}
