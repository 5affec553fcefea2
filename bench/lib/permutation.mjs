// Whether one of two is really less, from pairs of measurements that were taken in turns.
//
// Were both the same, each pair could as well have come out the other way round. The test counts
// how many of all the ways to turn pairs round add up to a difference as large as the one that was
// found: exactly, while there are few pairs, and for a fixed sample of the ways beyond that.
const EXACT_PAIRS = 16;
const SAMPLES = 65_536;
// Sums of the same numbers in another order differ in their last bits.
const TOLERANCE = 1e-9;

/** A generator with a fixed start (xorshift32), so that the same measurements give the same answer. */
function* coinFlips() {
  let state = 0x9e3779b9;
  for (;;) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    yield (state & 0x10000) !== 0;
  }
}

/**
 * The probability of `ours` being as much less than `theirs` by chance, one-sided: 1 / 2^pairs at
 * the least.
 *
 * @param {readonly number[]} ours
 * @param {readonly number[]} theirs the other one of each pair
 */
export function probabilityByChance(ours, theirs) {
  if (ours.length !== theirs.length || ours.length === 0) {
    throw new RangeError(`pairs are needed, not ${ours.length} and ${theirs.length} measurements`);
  }
  const differences = ours.map((value, index) => theirs[index] - value);
  const found = differences.reduce((sum, difference) => sum + difference, 0);
  const scale = differences.reduce((sum, difference) => sum + Math.abs(difference), 0);
  const reaches = (sum) => sum >= found - scale * TOLERANCE;
  return differences.length <= EXACT_PAIRS
    ? countAll(differences, reaches)
    : countSample(differences, reaches);
}

function countAll(differences, reaches) {
  const ways = 2 ** differences.length;
  let as = 0;
  for (let way = 0; way < ways; way++) {
    const sum = differences.reduce((s, d, index) => s + ((way >> index) & 1 ? -d : d), 0);
    if (reaches(sum)) as += 1;
  }
  return as / ways;
}

function countSample(differences, reaches) {
  const flips = coinFlips();
  // What was found is one of the ways.
  let as = 1;
  for (let sample = 0; sample < SAMPLES; sample++) {
    const sum = differences.reduce((s, d) => s + (flips.next().value ? -d : d), 0);
    if (reaches(sum)) as += 1;
  }
  return as / (SAMPLES + 1);
}
