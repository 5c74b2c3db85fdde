import assert from "node:assert/strict";
import { App, type Environment, Stack } from "aws-cdk-lib";
import { Template } from "aws-cdk-lib/assertions";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as ecr from "aws-cdk-lib/aws-ecr";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as lambda from "aws-cdk-lib/aws-lambda";
import {
  LambdaDispatchFunction,
  LambdaDispatchRouter,
  type LambdaDispatchFunctionProps,
  type LambdaDispatchRouterProps,
} from "../lib/index.js";

export const env: Environment = { account: "123456789012", region: "eu-central-1" };

/** A stack with a VPC and images. */
export interface World {
  stack: Stack;
  vpc: ec2.Vpc;
  repository: ecr.IRepository;
  image: ecs.ContainerImage;
}

export function world(stack = new Stack(new App(), "Shop", { env })): World {
  const vpc = new ec2.Vpc(stack, "Vpc", {
    maxAzs: 2,
    natGateways: 0,
    subnetConfiguration: [
      { name: "Public", subnetType: ec2.SubnetType.PUBLIC },
      { name: "Private", subnetType: ec2.SubnetType.PRIVATE_ISOLATED },
    ],
  });
  const repository = ecr.Repository.fromRepositoryName(stack, "Repository", "shop");
  return { stack, vpc, repository, image: ecs.ContainerImage.fromEcrRepository(repository, "r1") };
}

export function addFunction(w: World, props: Partial<LambdaDispatchFunctionProps> = {}): LambdaDispatchFunction {
  return new LambdaDispatchFunction(w.stack, "App", {
    vpc: w.vpc,
    code: lambda.DockerImageCode.fromEcr(w.repository, { tagOrDigest: "a1" }),
    ...props,
  });
}

export function addRouter(
  w: World,
  props: Partial<LambdaDispatchRouterProps> & Pick<LambdaDispatchRouterProps, "function">,
): LambdaDispatchRouter {
  return new LambdaDispatchRouter(w.stack, "Router", { vpc: w.vpc, image: w.image, ...props });
}

/** The template of a function and routers for it. */
export function synth(
  props: Partial<LambdaDispatchRouterProps> = {},
  fn: Partial<LambdaDispatchFunctionProps> = {},
): Template {
  const w = world();
  addRouter(w, { function: addFunction(w, fn), ...props });
  return Template.fromStack(w.stack);
}

/** ID and properties of the only one that was found. */
export function only(found: Record<string, any>): [string, any] {
  const all = Object.entries(found);
  assert.equal(all.length, 1, `found ${all.map(([id]) => id)}`);
  return [all[0][0], all[0][1].Properties];
}

/** The variables of the router's container, by name. */
export function variables(template: Template): Record<string, any> {
  const [, task] = only(template.findResources("AWS::ECS::TaskDefinition"));
  return Object.fromEntries(task.ContainerDefinitions[0].Environment.map((v: any) => [v.Name, v.Value]));
}

/** The routers' Caddyfile, with what only CloudFormation knows as JSON. */
export function caddyfile(template: Template): string {
  const value = variables(template).CADDYFILE;
  const parts: unknown[] = typeof value === "string" ? [value] : value["Fn::Join"][1];
  return parts.map((p) => (typeof p === "string" ? p : JSON.stringify(p))).join("");
}
