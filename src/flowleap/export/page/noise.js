// Standard normal noise, equal to `flowleap.samplers.noise(seed, [index], shape)` up to rounding:
// NumPy's SeedSequence hashes (seed, stream, index) to a key, which seeds the Mersenne Twister of PyTorch; pairs of its
// numbers become normal ones by the method of Box and Muller, sixteen at a time.
const makeNoise = (() => {
  const words = (seed) => (seed < 2 ** 32 ? [seed] : [seed % 2 ** 32, Math.floor(seed / 2 ** 32)]);

  function key(entropy) {
    let constant = 0x43b0d7e5;
    const hash = (value) => {
      let mixed = value ^ constant;
      constant = Math.imul(constant, 0x931e8875);
      mixed = Math.imul(mixed, constant);
      return (mixed ^ (mixed >>> 16)) >>> 0;
    };
    const mix = (x, y) => {
      const mixed = Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y);
      return (mixed ^ (mixed >>> 16)) >>> 0;
    };
    const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
    for (let source = 0; source < 4; source++)
      for (let place = 0; place < 4; place++)
        if (source !== place) pool[place] = mix(pool[place], hash(pool[source]));
    for (const word of entropy.slice(4)) for (let place = 0; place < 4; place++) pool[place] = mix(pool[place], hash(word));
    const first = Math.imul(pool[0] ^ 0x8b51f9dd, Math.imul(0x8b51f9dd, 0x58f38ded));
    return (first ^ (first >>> 16)) >>> 0;
  }

  function twister(seed) {
    const state = new Uint32Array(624);
    state[0] = seed;
    for (let i = 1; i < 624; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    let next = 624;
    return () => {
      if (next === 624) {
        for (let i = 0; i < 624; i++) {
          const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
          state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
        }
        next = 0;
      }
      let y = state[next++];
      y ^= y >>> 11;
      y ^= (y << 7) & 0x9d2c5680;
      y ^= (y << 15) & 0xefc60000;
      return ((y ^ (y >>> 18)) & 0xffffff) / 0x1000000;
    };
  }

  return (stream, size) => (seed, index) => {
    const uniform = twister(key([...words(seed), stream, index]));
    const drawn = Float32Array.from({ length: size }, uniform);
    const normal = (start) => {
      for (let i = start; i < start + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - drawn[i])), angle = 2 * Math.PI * drawn[i + 8];
        drawn[i] = radius * Math.cos(angle);
        drawn[i + 8] = radius * Math.sin(angle);
      }
    };
    for (let start = 0; start + 16 <= size; start += 16) normal(start);
    if (size % 16) {
      for (let i = size - 16; i < size; i++) drawn[i] = uniform();
      normal(size - 16);
    }
    return drawn;
  };
})();
