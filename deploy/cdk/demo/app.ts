// The whole service from nothing, of this checkout's images, in the account and region that
// the AWS CLI is logged in to:
//
//   docker build -f ../../lambdaadapter/Dockerfile -t lambda-dispatch-adapter --platform linux/arm64 ../..
//   npm ci && npm run build
//   npx cdk deploy
//
// -c certificate=<ARN> makes it HTTPS.

import * as path from "node:path";
import { App, CfnOutput, Stack } from "aws-cdk-lib";
import * as acm from "aws-cdk-lib/aws-certificatemanager";
import * as ec2 from "aws-cdk-lib/aws-ec2";
import * as assets from "aws-cdk-lib/aws-ecr-assets";
import * as ecs from "aws-cdk-lib/aws-ecs";
import * as lambda from "aws-cdk-lib/aws-lambda";
import { LambdaDispatchFunction, LambdaDispatchRouter, addRouterEndpoints } from "../lib/index.js";

const checkout = path.join(__dirname, "../../../..");
const platform = assets.Platform.LINUX_ARM64;

const app = new App();
const stack = new Stack(app, "LambdaDispatchDemo");

const vpc = new ec2.Vpc(stack, "Vpc", {
  maxAzs: 2,
  natGateways: 0,
  subnetConfiguration: [
    { name: "Public", subnetType: ec2.SubnetType.PUBLIC, cidrMask: 22 },
    { name: "Private", subnetType: ec2.SubnetType.PRIVATE_ISOLATED, cidrMask: 22 },
  ],
});
addRouterEndpoints(vpc);

const fn = new LambdaDispatchFunction(stack, "App", {
  vpc,
  code: lambda.DockerImageCode.fromImageAsset(path.join(checkout, "examples/express"), {
    platform,
  }),
});

const certificate = app.node.tryGetContext("certificate");
const router = new LambdaDispatchRouter(stack, "Router", {
  vpc,
  function: fn,
  image: ecs.ContainerImage.fromAsset(checkout, {
    file: "xcaddy.Dockerfile",
    platform,
    exclude: ["deploy/cdk", ".git"],
  }),
  minRouters: 1,
  maxRouters: 1,
  maxInstances: 4,
  certificate: certificate && acm.Certificate.fromCertificateArn(stack, "Certificate", certificate),
});
new CfnOutput(stack, "Balancer", { value: router.loadBalancer!.loadBalancerDnsName });
