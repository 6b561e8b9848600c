// Validates objects of operators with their published schemas. Reads a JSON list of objects, writes
// a JSON list of messages: an empty one for a valid object, null for a group without schemas here.
import { readFileSync } from 'node:fs'

const packages = {
  'monitoring.coreos.com': '@kubernetes-models/prometheus-operator',
  'cert-manager.io': '@kubernetes-models/cert-manager',
  'gateway.networking.k8s.io': '@kubernetes-models/gateway-api',
}

async function judge(object) {
  const [group, version] = object.apiVersion.split('/')
  if (!packages[group]) return null
  const models = await import(`${packages[group]}/${group}/${version}/${object.kind}`)
  try {
    new models[object.kind](object).validate()
    return ''
  } catch (error) {
    return String(error.message)
  }
}

const objects = JSON.parse(readFileSync(0, 'utf8'))
console.log(JSON.stringify(await Promise.all(objects.map(judge))))
