// The WebAssembly module: arrays in its memory, and calls of its kernels as Numba wants them.

"use strict";

const KINDS = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int64: BigInt64Array,
  bool: Uint8Array,
};

// An array of the kernels, C-contiguous. `data` is a view of its numbers; it is made anew each time, because the memory
// may have grown and moved in between.
class NdArray {
  constructor(memory, at, shape, kind) {
    Object.assign(this, { memory, at, shape, kind, size: shape.reduce((a, b) => a * b, 1) });
  }
  get data() {
    return new KINDS[this.kind](this.memory.buffer, this.at, this.size);
  }
  // The numbers from `first` on, as a flat array, without a copy.
  from(first) {
    const at = this.at + first * KINDS[this.kind].BYTES_PER_ELEMENT;
    return new NdArray(this.memory, at, [this.size - first], this.kind);
  }
  reshape(...shape) {
    return new NdArray(this.memory, this.at, shape, this.kind);
  }
}

class Kernels {
  // exports: of the module. table: for every kernel the types of its arguments and of its results.
  constructor(exports, table) {
    this.exports = exports;
    this.table = table;
    this.memory = exports.memory;
    this.free = Number(exports.__heap_base.value);
    this.result = this.reserve(64);
  }

  // bytes: of the module. What its code asks for from outside is memory, two roundings, and what only errors need.
  static async load(bytes, table) {
    let kernels = null;
    const outside = {
      NRT_MemInfo_alloc_aligned: (size) => kernels.allocateForNumba(Number(size)),
      numba_attempt_nocopy_reshape: (...args) => kernels.reshapeForNumba(...args),
      __multi3: (at, low, high, low2, high2) => kernels.multiply128(at, low, high, low2, high2),
      ceilf: Math.ceil,
      floorf: Math.floor,
    };
    const module = await WebAssembly.compile(bytes);
    const env = {};
    for (const { name } of WebAssembly.Module.imports(module)) {
      env[name] =
        outside[name] ||
        (() => {
          throw new Error(`A kernel called ${name}, which only its errors need.`);
        });
    }
    const instance = await WebAssembly.instantiate(module, { env });
    kernels = new Kernels(instance.exports, table);
    return kernels;
  }

  // Memory is handed out one piece after the other, and forgotten by going back to an earlier `free`.
  reserve(bytes) {
    const at = (this.free + 63) & ~63;
    this.free = at + bytes;
    const missing = this.free - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536) + 256);
    return at;
  }

  array(shape, kind = "float32") {
    const at = this.reserve(shape.reduce((a, b) => a * b, 1) * KINDS[kind].BYTES_PER_ELEMENT);
    return new NdArray(this.memory, at, shape, kind);
  }

  // numbers: an array or a typed array.
  arrayOf(numbers, shape = [numbers.length], kind = "float32") {
    const array = this.array(shape, kind);
    array.data.set(numbers);
    return array;
  }

  zeros(shape, kind = "float32") {
    const array = this.array(shape, kind);
    array.data.fill(kind === "int64" ? 0n : 0);
    return array;
  }

  // What work() reserves is forgotten when it has returned.
  scratch(work) {
    const before = this.free;
    const result = work();
    this.free = before;
    return result;
  }

  // Calls a kernel. Returns its result: nothing, a number, or an array of numbers.
  call(name, ...args) {
    const [kinds, results] = this.table[name];
    if (kinds.length !== args.length) throw new Error(`${name} takes ${kinds.length} arguments, not ${args.length}.`);
    const flat = [this.result, this.result]; // where the result goes, and where an exception would
    kinds.forEach((kind, i) => {
      if (kind.includes(" ")) this.pushArray(flat, args[i], kind);
      else flat.push(kind === "int64" ? BigInt(args[i]) : Number(args[i]));
    });
    const status = this.scratch(() => this.exports[name](...flat));
    if (status !== 0) throw new Error(`The kernel ${name} ended with status ${status}.`);
    const found = this.readResults(results);
    return found.length > 1 ? found : found[0];
  }

  // Numba hands an array on as: owner, parent, count, bytes of an item, address, shape, strides.
  pushArray(flat, array, kind) {
    if (`${array.kind} ${array.shape.length}` !== kind) {
      throw new Error(`A kernel takes ${kind} dimensions, not ${array.kind} [${array.shape}].`);
    }
    const bytes = KINDS[array.kind].BYTES_PER_ELEMENT;
    const strides = [];
    array.shape.reduceRight((stride, length, i) => {
      strides[i] = stride;
      return stride * length;
    }, bytes);
    flat.push(0, 0, BigInt(array.size), BigInt(bytes), array.at, ...array.shape.map(BigInt), ...strides.map(BigInt));
  }

  readResults(kinds) {
    const view = new DataView(this.memory.buffer);
    let at = this.result;
    return kinds.map((kind) => {
      const bytes = kind === "float32" ? 4 : 8;
      at = Math.ceil(at / bytes) * bytes;
      const read = { float32: "getFloat32", float64: "getFloat64", int64: "getBigInt64" }[kind];
      const value = Number(view[read](at, true));
      at += bytes;
      return value;
    });
  }

  // np.empty within a kernel: a record whose fourth field is the address of the memory. call() forgets both.
  allocateForNumba(size) {
    const record = this.reserve(48);
    const at = this.reserve(size);
    new DataView(this.memory.buffer).setUint32(record + 16, at, true);
    return record;
  }

  // array.reshape within a kernel; the arrays are C-contiguous, so only the new strides are wanted.
  reshapeForNumba(dims, shape, strides, newDims, newShape, newStrides, itemSize) {
    const view = new DataView(this.memory.buffer);
    let stride = itemSize;
    for (let i = Number(newDims) - 1; i >= 0; i--) {
      view.setBigInt64(newStrides + 8 * i, stride, true);
      stride *= view.getBigInt64(newShape + 8 * i, true);
    }
    return 1;
  }

  // A product of two integers of 128 bits: how LLVM checks a size for overflow.
  multiply128(at, low, high, low2, high2) {
    const whole = (low, high) => (high << 64n) | BigInt.asUintN(64, low);
    const product = whole(low, high) * whole(low2, high2);
    const view = new DataView(this.memory.buffer);
    view.setBigInt64(at, BigInt.asIntN(64, product), true);
    view.setBigInt64(at + 8, BigInt.asIntN(64, product >> 64n), true);
  }
}
