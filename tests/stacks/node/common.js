'use strict'
// What both applications share: the command line, a line of standard input, and assertions about errors.
const assert = require('node:assert/strict')
const fs = require('node:fs')

function readLine () {
  const byte = Buffer.alloc(1)
  let line = ''
  while (fs.readSync(0, byte, 0, 1, null) === 1 && byte[0] !== 0x0a) line += byte.toString()
  return line
}

// fn must throw what is an instance of Type, with that code.
function raises (Type, code, fn) {
  assert.throws(fn, error => {
    assert(error instanceof Type, `${error}`)
    if (code) assert.equal(error.code, code)
    return true
  })
}

function say (...words) {
  fs.writeSync(1, words.join(' ') + '\n')
}

function main (scenario, work) {
  const [command, path, worker, count] = process.argv.slice(2)
  if (command === 'scenario') scenario(path)
  else work(path, worker, Number(count))
}

module.exports = { main, raises, readLine, say }
